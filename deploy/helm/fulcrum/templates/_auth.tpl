{{/* Tokens and the audit log. docs/security-tokens.md says what they are. */}}

{{- define "fulcrum.checkAuth" -}}
{{- if and .Values.auth.existingSecret (not .Values.auth.enabled) -}}
{{- fail "auth.enabled: is false, and there is a secret: set it, or take auth.existingSecret out" -}}
{{- end -}}
{{- if and .Values.auth.enabled (not .Values.auth.existingSecret) -}}
{{- fail "auth.existingSecret: name a secret with internal-secret, as `fulcrum token generate internal` makes it" -}}
{{- end -}}
{{- if and .Values.auth.enabled .Values.auth.required (not .Values.test.auth.existingSecret) -}}
{{- fail "test.auth.existingSecret: name the secret with the token that helm test shows: tokens are required (auth.required)" -}}
{{- end -}}
{{- end -}}

{{- define "fulcrum.hasAuditFile" -}}
{{- if and .root.Values.audit.volume (ne .component "shard-node") }}yes{{ end -}}
{{- end -}}

{{/* Each pod writes a file of its own: volumes may be shared. */}}
{{- define "fulcrum.authEnv" -}}
{{- with .root.Values.auth }}
{{- if .enabled }}
- {name: FULCRUM__AUTH__REQUIRED, value: {{ .required | quote }}}
- {name: FULCRUM__AUTH__INTERNAL_SECRET_FILE, value: /etc/fulcrum/auth/internal-secret}
{{- if .rootToken }}
- {name: FULCRUM__AUTH__ROOT_TOKEN_FILE, value: /etc/fulcrum/auth/root-token-hash}
{{- end }}
{{- end }}
{{- end }}
{{- if include "fulcrum.hasAuditFile" . }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: FULCRUM__AUDIT__FILE, value: /var/log/fulcrum/$(POD_NAME).jsonl}
- {name: FULCRUM__AUDIT__REQUIRED, value: {{ .root.Values.audit.required | quote }}}
{{- end }}
{{- end -}}

{{/* By key: whatever else is in the secret, as the root token itself, stays away from the services. */}}
{{- define "fulcrum.authVolume" -}}
{{- with .root.Values.auth }}
- name: auth
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items:
      - {key: internal-secret, path: internal-secret}
      {{- if .rootToken }}
      - {key: root-token-hash, path: root-token-hash}
      {{- end }}
{{- end }}
{{- end -}}
