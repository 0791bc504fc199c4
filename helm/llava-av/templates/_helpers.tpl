{{/* What objects of this release are called. */}}
{{- define "llava-av.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a Deployment selects by: nothing that an upgrade may change. Takes (list $ component). */}}
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

{{/* Labels of a pod: what does not change with the chart's version, so that an upgrade restarts only what differs. */}}
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
{{- fail (printf "images.%s (%s:%s) has no digest, and images.requireDigests is true: give images.%s.digest, or the files that images/pin and .ci/image write" (index . 1) $name $image.tag (index . 1)) -}}
{{- end -}}
{{ $name }}{{ with $image.digest }}@{{ . }}{{ else }}{{ with $image.tag }}:{{ . }}{{ end }}{{ end }}
{{- end -}}

{{/* Where the servers are. */}}
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

{{/* Whether the chart makes a user of S3 for training and evaluation, who may do less than steps and people. */}}
{{- define "llava-av.makesJobUser" -}}
{{- if and .Values.s3.enabled (eq .Values.s3.flavour "minio") (not .Values.credentials.existingSecret) (not .Values.jobCredentials.existingSecret) -}}true{{- end -}}
{{- end -}}

{{/* The Secret of training and evaluation: their own, or that of steps and people where there is none. */}}
{{- define "llava-av.jobCredentials" -}}
{{- if .Values.jobCredentials.existingSecret -}}{{ .Values.jobCredentials.existingSecret }}
{{- else if include "llava-av.makesJobUser" . -}}{{ .Values.jobCredentials.name }}
{{- else -}}{{ include "llava-av.credentials" . }}{{- end -}}
{{- end -}}

{{- define "llava-av.serverSecrets" -}}
{{ .Values.serverSecrets.existingSecret | default (printf "%s-servers" (include "llava-av.fullname" .)) }}
{{- end -}}

{{/* What outlives the release, by its own annotation. */}}
{{- define "llava-av.kept" -}}
{{- if .Values.keepData }}
  annotations: {helm.sh/resource-policy: keep}
{{- end }}
{{- end -}}

{{/* Digits that change with what they are made of: a Job cannot be changed, so one that differs has another name. */}}
{{- define "llava-av.digest" -}}{{ . | toString | sha256sum | trunc 8 }}{{- end -}}
