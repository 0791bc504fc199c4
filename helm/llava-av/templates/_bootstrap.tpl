{{/* A Job that prepares something once. Jobs are immutable, so the name contains a digest of the spec.
     Takes (dict "root" $ "step" name "pod" spec-as-text). */}}
{{- define "llava-av.bootstrapJob" -}}
{{- $spec := include "llava-av.bootstrapSpec" . -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "llava-av.fullname" .root }}-{{ .step }}-{{ include "llava-av.digest" $spec }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "llava-av.labels" (list .root "bootstrap") | nindent 4 }}
spec: {{- $spec | nindent 2 }}
{{- end -}}

{{- define "llava-av.bootstrapSpec" -}}
backoffLimit: 10
activeDeadlineSeconds: 1800
template:
  metadata:
    labels: {{- include "llava-av.podLabels" (list .root "bootstrap") | nindent 6 }}
      llava-av/internal: "true"
      llava-av/step: {{ .step }}
  spec: {{- .pod | nindent 4 }}
{{- end -}}

{{/* The Secrets and keys to generate, as JSON for fill_secrets.py: a number of random bytes, a fixed value, or
     the Secret to copy the key from. */}}
{{- define "llava-av.secretsPlan" -}}
{{- $plan := dict -}}
{{- if not .Values.serverSecrets.existingSecret -}}
{{- $keys := dict -}}
{{- if and .Values.s3.enabled (eq .Values.s3.flavour "minio") -}}
{{- $_ := set $keys "s3-root-user" (dict "bytes" 10) -}}
{{- $_ := set $keys "s3-root-password" (dict "bytes" 20) -}}
{{- end -}}
{{- if .Values.postgresql.enabled -}}
{{- $_ := set $keys "postgresql-admin-password" (dict "bytes" 20) -}}
{{- $_ := set $keys "postgresql-password" (dict "bytes" 20) -}}
{{- end -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.auth.enabled -}}
{{- $_ := set $keys "mlflow-admin-username" (dict "value" "admin") -}}
{{- $_ := set $keys "mlflow-admin-password" (dict "bytes" 20) -}}
{{- $_ := set $keys "mlflow-session-key" (dict "bytes" 32) -}}
{{- end -}}
{{- if $keys -}}{{- $_ := set $plan (include "llava-av.serverSecrets" .) $keys -}}{{- end -}}
{{- end -}}
{{- if not .Values.credentials.existingSecret -}}
{{- $keys := dict -}}
{{- if .Values.s3.enabled -}}
{{- $_ := set $keys "AWS_ACCESS_KEY_ID" (dict "bytes" 10) -}}
{{- $_ := set $keys "AWS_SECRET_ACCESS_KEY" (dict "bytes" 20) -}}
{{- end -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.auth.enabled -}}
{{- $_ := set $keys "MLFLOW_TRACKING_USERNAME" (dict "value" "llava-av") -}}
{{- $_ := set $keys "MLFLOW_TRACKING_PASSWORD" (dict "bytes" 20) -}}
{{- end -}}
{{- if $keys -}}{{- $_ := set $plan .Values.credentials.name $keys -}}{{- end -}}
{{- end -}}
{{- if include "llava-av.makesJobUser" . -}}
{{- $keys := dict "AWS_ACCESS_KEY_ID" (dict "bytes" 10) "AWS_SECRET_ACCESS_KEY" (dict "bytes" 20) -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.auth.enabled -}}
{{- range $key := list "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" -}}
{{- $_ := set $keys $key (dict "copy" $.Values.credentials.name) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $plan .Values.jobCredentials.name $keys -}}
{{- end -}}
{{- if include "llava-av.makesServingUser" . -}}
{{- $keys := dict "AWS_ACCESS_KEY_ID" (dict "bytes" 10) "AWS_SECRET_ACCESS_KEY" (dict "bytes" 20) -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.auth.enabled -}}
{{- if eq .Values.mlflow.auth.defaultPermission "NO_PERMISSIONS" -}}
{{- range $key := list "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" -}}
{{- $_ := set $keys $key (dict "copy" $.Values.credentials.name) -}}
{{- end -}}
{{- else -}}
{{- $_ := set $keys "MLFLOW_TRACKING_USERNAME" (dict "value" "llava-av-serving") -}}
{{- $_ := set $keys "MLFLOW_TRACKING_PASSWORD" (dict "bytes" 20) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $plan .Values.serving.credentials.name $keys -}}
{{- end -}}
{{- if and .Values.serving.enabled (not .Values.serving.apiKeys.existingSecret) -}}
{{- $_ := set $plan (include "llava-av.servingKeys" .) (dict .Values.serving.apiKeys.key (dict "bytes" 32)) -}}
{{- end -}}
{{- toJson $plan -}}
{{- end -}}
