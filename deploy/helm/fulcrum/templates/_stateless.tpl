{{/* Services, Deployment and budget of a router or coordinator: they differ in name, port and number. */}}
{{- define "fulcrum.stateless" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "fulcrum.metadata" . | nindent 2 }}
  {{- with .values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .values.service.type }}
  selector:
    {{- include "fulcrum.selectorLabels" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ .port }}, targetPort: grpc, protocol: TCP}
---
# Every pod by its own address: for clients that spread calls themselves, and for Prometheus. Metrics are in no Service that
# may be open to the outside.
apiVersion: v1
kind: Service
metadata:
  {{- include "fulcrum.metadata" (dict "root" .root "component" .component "suffix" "-pods") | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "fulcrum.selectorLabels" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ .port }}, targetPort: grpc, protocol: TCP}
    - {name: metrics, port: 9400, targetPort: metrics, protocol: TCP}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "fulcrum.metadata" . | nindent 2 }}
spec:
  {{- if not .scaled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  minReadySeconds: {{ .values.minReadySeconds }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels:
      {{- include "fulcrum.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      {{- include "fulcrum.podMetadata" . | nindent 6 }}
    spec:
      {{- include "fulcrum.podSpec" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ add .values.preStopSeconds 15 }}
      containers:
        - name: {{ .component }}
          image: {{ include "fulcrum.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [fulcrum-{{ .component }}]
          args:
            {{- include "fulcrum.flags" . | nindent 12 }}
          env:
            {{- include "fulcrum.env" . | nindent 12 }}
          ports:
            {{- include "fulcrum.ports" . | nindent 12 }}
          {{- include "fulcrum.probes" . | nindent 10 }}
          {{- if gt (int .values.preStopSeconds) 0 }}
          # Serves on until those who route to it have heard that it goes.
          lifecycle: {preStop: {exec: {command: [sleep, {{ .values.preStopSeconds | quote }}]}}}
          {{- end }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            {{- include "fulcrum.containerSecurity" . | nindent 12 }}
          {{- with include "fulcrum.mounts" . }}
          volumeMounts:
            {{- . | trim | nindent 12 }}
          {{- end }}
      {{- with include "fulcrum.volumes" . }}
      volumes:
        {{- . | trim | nindent 8 }}
      {{- end }}
{{- if gt (int .fewest) 1 }}
---
apiVersion: {{ include "fulcrum.pdbVersion" .root }}
kind: PodDisruptionBudget
metadata:
  {{- include "fulcrum.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "fulcrum.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end -}}
