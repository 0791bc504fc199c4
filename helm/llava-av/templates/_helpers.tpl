{{/* Prefix of the names of the release's objects. */}}
{{- define "llava-av.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that a Deployment selects by. An upgrade must not change them. Takes (list $ component). */}}
{{- define "llava-av.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object. Takes (list $ component). */}}
{{- define "llava-av.labels" -}}
{{ include "llava-av.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/part-of: llava-av
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end -}}

{{/* Labels of a pod, without the chart's version: an upgrade restarts only pods that differ.
     Takes (list $ component). */}}
{{- define "llava-av.podLabels" -}}
{{ include "llava-av.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/part-of: llava-av
{{- end -}}

{{/* Name of an image. Takes (list $ key). */}}
{{- define "llava-av.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- $name := $image.repository -}}
{{- $first := splitList "/" $name | first -}}
{{- if and $images.registry (not (and (contains "/" $name) (or (contains "." $first) (contains ":" $first)))) -}}
{{- $name = printf "%s/%s" (trimSuffix "/" $images.registry) $name -}}
{{- end -}}
{{- if and $images.requireDigests (not $image.digest) (not (contains "@sha256:" $name)) -}}
{{- fail (printf "images.%s (%s:%s) has no digest, but images.requireDigests is true: set images.%s.digest, or pass the files that images/pin and .ci/image write" (index . 1) $name $image.tag (index . 1)) -}}
{{- end -}}
{{ $name }}{{ with $image.digest }}@{{ . }}{{ else }}{{ with $image.tag }}:{{ . }}{{ end }}{{ end }}
{{- end -}}

{{/* Addresses of the servers. */}}
{{- define "llava-av.s3Port" -}}{{ if eq .Values.s3.flavour "minio" }}9000{{ else }}8333{{ end }}{{- end -}}

{{- define "llava-av.s3Endpoint" -}}
{{- if .Values.s3.enabled -}}
http://{{ include "llava-av.fullname" . }}-s3.{{ .Release.Namespace }}:{{ include "llava-av.s3Port" . }}
{{- else -}}
{{ .Values.s3.external.endpoint }}
{{- end -}}
{{- end -}}

{{- define "llava-av.trackingUri" -}}
{{- if .Values.mlflow.enabled -}}
http://{{ include "llava-av.fullname" . }}-mlflow.{{ .Release.Namespace }}:5000
{{- else -}}
{{ .Values.mlflow.external.trackingUri }}
{{- end -}}
{{- end -}}

{{/* Secrets. */}}
{{- define "llava-av.credentials" -}}{{ .Values.credentials.existingSecret | default .Values.credentials.name }}{{- end -}}

{{/* "true" if the chart creates a separate S3 user with fewer permissions for training and evaluation. */}}
{{- define "llava-av.makesJobUser" -}}
{{- if and .Values.s3.enabled (eq .Values.s3.flavour "minio") (not .Values.credentials.existingSecret) (not .Values.jobCredentials.existingSecret) -}}true{{- end -}}
{{- end -}}

{{/* The Secret of training and evaluation; without a separate one, that of steps and people. */}}
{{- define "llava-av.jobCredentials" -}}
{{- if .Values.jobCredentials.existingSecret -}}{{ .Values.jobCredentials.existingSecret }}
{{- else if include "llava-av.makesJobUser" . -}}{{ .Values.jobCredentials.name }}
{{- else -}}{{ include "llava-av.credentials" . }}{{- end -}}
{{- end -}}

{{- define "llava-av.serverSecrets" -}}
{{ .Values.serverSecrets.existingSecret | default (printf "%s-servers" (include "llava-av.fullname" .)) }}
{{- end -}}

{{/* Annotation of objects that outlive the release. */}}
{{- define "llava-av.kept" -}}
{{- if .Values.keepData }}
  annotations: {helm.sh/resource-policy: keep}
{{- end }}
{{- end -}}

{{/* Short digest of a text. Jobs are immutable, so a changed Job needs a new name. */}}
{{- define "llava-av.digest" -}}{{ . | toString | sha256sum | trunc 8 }}{{- end -}}
