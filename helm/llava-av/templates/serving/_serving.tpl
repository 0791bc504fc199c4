{{/* Name of the objects that serve the model. */}}
{{- define "llava-av.servingName" -}}{{ include "llava-av.fullname" . }}-serving{{- end -}}

{{/* Name of the model in requests, as the server derives it from the address. */}}
{{- define "llava-av.servedName" -}}
{{- $parts := splitList "/" (trimSuffix "/" .Values.serving.model) -}}
{{- if hasPrefix "s3://" .Values.serving.model -}}
{{- join "-" (slice $parts (sub (len $parts) 2)) -}}
{{- else -}}
{{- index (splitList "@" (index $parts 1)) 0 -}}
{{- end -}}
{{- end -}}

{{/* The Service in front of the pods; KServe creates its own. */}}
{{- define "llava-av.servingService" -}}
{{ include "llava-av.servingName" . }}{{ if .Values.serving.kserve.enabled }}-predictor{{ end }}
{{- end -}}

{{- define "llava-av.servingPort" -}}{{ ternary 80 8000 .Values.serving.kserve.enabled }}{{- end -}}

{{/* "true" if the chart creates users of S3 and MLflow that can only read. */}}
{{- define "llava-av.makesServingUser" -}}
{{- if and .Values.serving.enabled .Values.s3.enabled (eq .Values.s3.flavour "minio") (not .Values.credentials.existingSecret) (not .Values.serving.credentials.existingSecret) -}}true{{- end -}}
{{- end -}}

{{/* The Secret of the server; without a separate one, that of steps and people. */}}
{{- define "llava-av.servingCredentials" -}}
{{- if .Values.serving.credentials.existingSecret -}}{{ .Values.serving.credentials.existingSecret }}
{{- else if include "llava-av.makesServingUser" . -}}{{ .Values.serving.credentials.name }}
{{- else -}}{{ include "llava-av.credentials" . }}{{- end -}}
{{- end -}}

{{- define "llava-av.servingKeys" -}}
{{ .Values.serving.apiKeys.existingSecret | default (printf "%s-keys" (include "llava-av.servingName" .)) }}
{{- end -}}

{{/* Numbers of pods: `min` and `max` are equal without autoscaling. */}}
{{- define "llava-av.servingReplicas" -}}
{{- with .Values.serving -}}
{{- if .autoscaling.enabled -}}
{min: {{ .autoscaling.minReplicas }}, max: {{ .autoscaling.maxReplicas }}}
{{- else -}}
{min: {{ .replicas }}, max: {{ .replicas }}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Pod of the server. Takes (list $ container-name). */}}
{{- define "llava-av.servingPod" -}}
{{- $root := index . 0 -}}
{{- $values := $root.Values.serving -}}
{{- $placement := dict -}}
{{- range $key, $value := $root.Values.placement -}}
{{- $_ := set $placement $key (index $values.placement $key | default $value) -}}
{{- end -}}
{{ include "llava-av.pod" (dict "root" $root "user" 1000 "priority" true "placement" $placement) }}
{{- with $values.placement.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
# The server ends running requests within 30 s after the delay, and closes the model.
terminationGracePeriodSeconds: {{ add $values.shutdownDelaySeconds 45 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "llava-av.selector" (list $root "serving") | nindent 8 }}
initContainers:
  - name: wait
    {{- include "llava-av.container" (list $root "train") | nindent 4 }}
    command: [python, /etc/llava-av/serving/wait_for_model.py, {{ $values.model | quote }}]
    {{- include "llava-av.servingEnvironment" $root | nindent 4 }}
    resources: {requests: {cpu: 20m, memory: 256Mi}, limits: {memory: 512Mi}}
    volumeMounts: &mounts
      - {name: tmp, mountPath: /tmp}
      - {name: shm, mountPath: /dev/shm}
      - {name: work, mountPath: /work}
      - {name: config, mountPath: /etc/llava-av/serving, readOnly: true}
      - {name: keys, mountPath: /etc/llava-av/api-keys, readOnly: true}
      {{- include "llava-av.trustMount" $root | nindent 6 }}
containers:
  - name: {{ index . 1 }}
    {{- include "llava-av.container" (list $root "train") | nindent 4 }}
    args:
      - serve
      - {{ $values.model | quote }}
      - --host=0.0.0.0
      - --port=8000
      - --api-keys=/etc/llava-av/api-keys/keys
      - --shutdown-delay-s={{ $values.shutdownDelaySeconds }}
      {{- range $key, $value := $values.limits }}
      - --limit={{ $key }}={{ toJson $value }}
      {{- end }}
      {{- range $values.mediaHosts }}
      - --media-host={{ . }}
      {{- end }}
    {{- include "llava-av.servingEnvironment" $root | nindent 4 }}
    ports: [{name: http, containerPort: 8000}]
    # The model is fetched, verified and loaded before the server answers.
    startupProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 5, timeoutSeconds: 5, failureThreshold: {{ div (add $values.startupSeconds 4) 5 }}}
    readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 5, timeoutSeconds: 5}
    livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 20, timeoutSeconds: 15, failureThreshold: 6}
    resources: {{- toYaml $values.resources | nindent 6 }}
    volumeMounts: *mounts
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 4Gi}}
  # Decoded media: those of one request can need more than the 64 MiB that containers get.
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: 2Gi}}
  - {name: work, emptyDir: {sizeLimit: {{ $values.modelsSize }}}}
  - {name: config, configMap: {name: {{ include "llava-av.servingName" $root }}}}
  - {name: keys, secret: {secretName: {{ include "llava-av.servingKeys" $root }}, items: [{key: {{ $values.apiKeys.key | quote }}, path: keys}]}}
  {{- include "llava-av.trustVolume" $root | nindent 2 }}
{{- end -}}

{{- define "llava-av.servingEnvironment" -}}
{{- with include "llava-av.trustVariables" . -}}
env: {{- . | nindent 2 }}
{{ end -}}
envFrom:
  - configMapRef: {name: {{ .Values.services.name }}}
  - secretRef: {name: {{ include "llava-av.servingCredentials" . }}}
{{- end -}}
