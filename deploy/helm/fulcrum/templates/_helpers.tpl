{{/* Names, labels and the parts that all pods have. Components are shard-node, router, coordinator, etcd and test. */}}

{{- define "fulcrum.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: StatefulSets add to it, and so does Kubernetes to theirs, and a label holds 63. */}}
{{- define "fulcrum.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "fulcrum.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "fulcrum.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The three labels that never change: selectors cannot. Takes (dict "root" $ "component" "router"). */}}
{{- define "fulcrum.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fulcrum.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "fulcrum.labels" -}}
{{ include "fulcrum.selectorLabels" . }}
app.kubernetes.io/part-of: fulcrum
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "fulcrum.metadata" -}}
name: {{ include "fulcrum.fullname" .root }}-{{ .component }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "fulcrum.labels" . | nindent 2 }}
{{- end -}}

{{/* What no schema can say about values. */}}
{{- define "fulcrum.checkValues" -}}
{{- if gt (int .Values.test.replicationFactor) (int .Values.shardNode.replicas) -}}
{{- fail "test.replicationFactor: at most shardNode.replicas" -}}
{{- end -}}
{{- if and .Values.router.autoscaling.enabled (gt (int .Values.router.autoscaling.minReplicas) (int .Values.router.autoscaling.maxReplicas)) -}}
{{- fail "router.autoscaling.minReplicas: at most router.autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .Values.etcd.enabled .Values.externalEtcd.endpoints -}}
{{- fail "externalEtcd.endpoints: would not be used, for etcd.enabled is true: set it to false, or name no endpoints" -}}
{{- end -}}
{{- include "fulcrum.checkTls" . -}}
{{- include "fulcrum.checkAuth" . -}}
{{- end -}}

{{- define "fulcrum.kubeVersion" -}}
{{- default .Capabilities.KubeVersion.Version .Values.kubeVersionOverride -}}
{{- end -}}

{{- define "fulcrum.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fulcrum.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "image" .Values.image "tag" "a tag if the image has none"). */}}
{{- define "fulcrum.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Full names of pods behind a headless Service: a relative name is looked up in every search domain first. */}}
{{- define "fulcrum.podDomain" -}}
{{- printf "%s-%s.$(POD_NAMESPACE).svc.%s" (include "fulcrum.fullname" .root) .component .root.Values.clusterDomain -}}
{{- end -}}

{{/* All members of this release's etcd, or what externalEtcd says. No ClusterIP: a member that is down is left out by clients. */}}
{{- define "fulcrum.etcdEndpoints" -}}
{{- if .Values.etcd.enabled -}}
{{- $etcd := dict "root" . "component" "etcd" -}}
{{- $endpoints := list -}}
{{- range $member := until (int .Values.etcd.replicas) -}}
{{- $endpoints = append $endpoints (printf "http://%s-etcd-%d.%s:2379" (include "fulcrum.fullname" $) $member (include "fulcrum.podDomain" $etcd)) -}}
{{- end -}}
{{- join "," $endpoints -}}
{{- else -}}
{{- join "," (required "externalEtcd.endpoints: name them, or set etcd.enabled" .Values.externalEtcd.endpoints) -}}
{{- end -}}
{{- end -}}

{{/* Flags of all three services. */}}
{{- define "fulcrum.flags" -}}
- --listen={{ .root.Values.listenAddress }}:{{ .port }}
- --metrics-listen={{ .root.Values.listenAddress }}:9400
{{- if not (and .root.Values.tls.enabled .root.Values.tls.metrics) }}
# {{ ternary "Metrics are" "Nothing is" .root.Values.tls.enabled }} not encrypted (tls): who can connect is up to the NetworkPolicies.
- --insecure-listen
{{- end }}
- --cluster-id={{ .root.Values.clusterId }}
- --etcd={{ include "fulcrum.etcdEndpoints" .root }}
- --log={{ .root.Values.log.filter }}
- --log-format={{ .root.Values.log.format }}
{{- if .values.config }}
- --config=/etc/fulcrum/config/settings.toml
{{- end }}
{{- end -}}

{{/* Environment of all three services. */}}
{{- define "fulcrum.env" -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with .root.Values.traces.endpoint }}
- {name: FULCRUM__TELEMETRY__OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: FULCRUM__TELEMETRY__TRACE_RATIO, value: {{ $.root.Values.traces.ratio | quote }}}
{{- end }}
{{- if not .root.Values.etcd.enabled }}
{{- with .root.Values.externalEtcd }}
{{- with .prefix }}
- {name: FULCRUM__ETCD__PREFIX, value: {{ . | quote }}}
{{- end }}
{{- with .auth.existingSecret }}
- name: FULCRUM__ETCD__USER
  valueFrom: {secretKeyRef: {name: {{ . }}, key: user}}
- name: FULCRUM__ETCD__PASSWORD
  valueFrom: {secretKeyRef: {name: {{ . }}, key: password}}
{{- end }}
{{- if .tls.existingSecret }}
- {name: FULCRUM__ETCD__CA_FILE, value: /etc/fulcrum/etcd/ca.crt}
{{- if .tls.clientCertificate }}
- {name: FULCRUM__ETCD__CERTIFICATE_FILE, value: /etc/fulcrum/etcd/tls.crt}
- {name: FULCRUM__ETCD__KEY_FILE, value: /etc/fulcrum/etcd/tls.key}
{{- end }}
{{- with .tls.serverName }}
- {name: FULCRUM__ETCD__SERVER_NAME, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- include "fulcrum.tlsEnv" . }}
{{- include "fulcrum.authEnv" . }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fulcrum.hasEtcdSecret" -}}
{{- if and (not .Values.etcd.enabled) .Values.externalEtcd.tls.existingSecret }}yes{{ end -}}
{{- end -}}

{{- define "fulcrum.mounts" -}}
{{- if .values.config }}
- {name: config, mountPath: /etc/fulcrum/config, readOnly: true}
{{- end }}
{{- if include "fulcrum.hasEtcdSecret" .root }}
- {name: etcd-tls, mountPath: /etc/fulcrum/etcd, readOnly: true}
{{- end }}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/fulcrum/tls, readOnly: true}
{{- end }}
{{- if .root.Values.auth.enabled }}
- {name: auth, mountPath: /etc/fulcrum/auth, readOnly: true}
{{- end }}
{{- if include "fulcrum.hasAuditFile" . }}
- {name: audit, mountPath: /var/log/fulcrum}
{{- end }}
{{- end -}}

{{- define "fulcrum.volumes" -}}
{{- if .values.config }}
- name: config
  configMap: {name: {{ include "fulcrum.fullname" .root }}-{{ .component }}}
{{- end }}
{{- if include "fulcrum.hasEtcdSecret" .root }}
- name: etcd-tls
  secret: {secretName: {{ .root.Values.externalEtcd.tls.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "fulcrum.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- if .root.Values.auth.enabled }}
{{- include "fulcrum.authVolume" . }}
{{- end }}
{{- if include "fulcrum.hasAuditFile" . }}
- name: audit
  {{- toYaml .root.Values.audit.volume | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Pods are started anew when their settings change. */}}
{{- define "fulcrum.podMetadata" -}}
labels:
  {{- include "fulcrum.selectorLabels" . | nindent 2 }}
{{- $annotations := deepCopy .values.podAnnotations -}}
{{- with .values.config }}
{{- $annotations = set $annotations "fulcrum/config-checksum" (sha256sum .) -}}
{{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "fulcrum.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "fulcrum.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
What all pods say about who runs them, and where. Environment variables for Services are off: one of a Service that is
named fulcrum would be taken for a setting of the command line tool (FULCRUM_ROUTER).
*/}}
{{- define "fulcrum.podSpec" -}}
serviceAccountName: {{ include "fulcrum.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "fulcrum.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ . }}}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{ include "fulcrum.spread" . }}
{{- end -}}

{{/* Over zones as evenly as can be, never two on a machine: as a wish, or as a condition. */}}
{{- define "fulcrum.spread" -}}
{{- $hard := eq .values.spread "hard" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: {{ ternary "DoNotSchedule" "ScheduleAnyway" $hard }}
    labelSelector:
      matchLabels:
        {{- include "fulcrum.selectorLabels" . | nindent 8 }}
affinity:
  podAntiAffinity:
    {{- if $hard }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "fulcrum.selectorLabels" . | nindent 12 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "fulcrum.selectorLabels" . | nindent 14 }}
    {{- end }}
{{- end -}}

{{/*
Liveness asks only whether the process answers: a node that waits for etcd or recovers must not be killed for it. Readiness
of a shard-node says that it has caught up and the next one may go. Both are HTTP: gRPC health says "serving" as soon as
the port is open.
*/}}
{{- define "fulcrum.probes" -}}
{{- $scheme := ternary ", scheme: HTTPS" "" (and .root.Values.tls.enabled .root.Values.tls.metrics) -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics{{ $scheme }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 300
livenessProbe:
  httpGet: {path: /healthz, port: metrics{{ $scheme }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics{{ $scheme }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{- define "fulcrum.ports" -}}
- {name: grpc, containerPort: {{ .port }}, protocol: TCP}
- {name: metrics, containerPort: 9400, protocol: TCP}
{{- end -}}

{{- define "fulcrum.pdbVersion" -}}
{{- ternary "policy/v1" "policy/v1beta1" (semverCompare ">=1.21-0" (include "fulcrum.kubeVersion" .)) -}}
{{- end -}}
