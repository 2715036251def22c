{{/* Encryption: certificates by a secret or by cert-manager. docs/security.md says what the processes make of them. */}}

{{- define "fulcrum.role" -}}fulcrum-service{{- end -}}

{{/* What no schema can say about certificates. */}}
{{- define "fulcrum.checkTls" -}}
{{- with .Values.tls -}}
{{- if and (not .enabled) (or .existingSecret .certManager.enabled) -}}
{{- fail "tls.enabled: is false, and there are certificates: set it, or take tls.existingSecret and tls.certManager.enabled out" -}}
{{- end -}}
{{- if and .existingSecret .certManager.enabled -}}
{{- fail "tls.existingSecret: and tls.certManager.enabled, too: certificates come from one of them" -}}
{{- end -}}
{{- if and .enabled (not .existingSecret) (not .certManager.enabled) -}}
{{- fail "tls.existingSecret: name a secret with tls.crt, tls.key and ca.crt, or set tls.certManager.enabled" -}}
{{- end -}}
{{- if and .certManager.enabled (not .certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: name the issuer that signs" -}}
{{- end -}}
{{- if le (trimSuffix "h" .certManager.duration | int) (trimSuffix "h" .certManager.renewBefore | int) -}}
{{- fail "tls.certManager.renewBefore: shorter than tls.certManager.duration" -}}
{{- end -}}
{{- if and .existingSecret (eq .clientCertificates "required") (not $.Values.test.tls.existingSecret) -}}
{{- fail "test.tls.existingSecret: name the secret with a client's certificate that helm test shows: routers want one (tls.clientCertificates)" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The secret of a component. */}}
{{- define "fulcrum.tlsSecret" -}}
{{- default (printf "%s-%s-tls" (include "fulcrum.fullname" .root) .component) .root.Values.tls.existingSecret -}}
{{- end -}}

{{/*
Processes know each other by their role, for pods come and go. Coordinators serve clients, which they take only so; that shard-nodes do
is a choice.
*/}}
{{- define "fulcrum.tlsEnv" -}}
{{- with .root.Values.tls }}
{{- if .enabled }}
- {name: FULCRUM__TLS__CERT, value: /etc/fulcrum/tls/tls.crt}
- {name: FULCRUM__TLS__KEY, value: /etc/fulcrum/tls/tls.key}
- {name: FULCRUM__TLS__CA, value: /etc/fulcrum/tls/ca.crt}
- {name: FULCRUM__TLS__SERVER_NAME, value: {{ include "fulcrum.role" $ }}}
- {name: FULCRUM__TLS__METRICS, value: {{ .metrics | quote }}}
{{- if eq $.component "router" }}
- {name: FULCRUM__TLS__CLIENT_CERTIFICATES, value: {{ .clientCertificates }}}
{{- else }}
- {name: FULCRUM__TLS__DIRECT_CLIENTS, value: {{ or .directClients (eq $.component "coordinator") | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where `helm test` has its certificates from: its own, or those that have the authority in them. */}}
{{- define "fulcrum.testTlsSecret" -}}
{{- if .root.Values.tls.certManager.enabled -}}
{{- include "fulcrum.tlsSecret" . -}}
{{- else -}}
{{- default .root.Values.tls.existingSecret .root.Values.test.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Whether `helm test` shows a certificate. */}}
{{- define "fulcrum.testHasCertificate" -}}
{{- if or .Values.tls.certManager.enabled .Values.test.tls.existingSecret }}yes{{ end -}}
{{- end -}}

{{/* Names of a Service, from the shortest. */}}
{{- define "fulcrum.serviceNames" -}}
- {{ .name }}
- {{ .name }}.{{ .root.Release.Namespace }}
- {{ .name }}.{{ .root.Release.Namespace }}.svc
- {{ .name }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}
