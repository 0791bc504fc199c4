{{/* Fail if the cluster has no Prometheus operator to read the monitors. */}}
{{- define "llava-av.requireMonitoring" -}}
{{- if not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}
{{- fail "monitoring.operator needs the Prometheus operator, but the cluster has no API monitoring.coreos.com/v1: install the operator first, or set monitoring.operator=false (for helm template, pass --api-versions monitoring.coreos.com/v1)" -}}
{{- end -}}
{{- end -}}

{{/* Metadata of an object of the Prometheus operator. Takes (list $ kind name). */}}
{{- define "llava-av.monitorHead" -}}
apiVersion: monitoring.coreos.com/v1
kind: {{ index . 1 }}
metadata:
  name: {{ include "llava-av.fullname" (index . 0) }}-{{ index . 2 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "llava-av.labels" (list (index . 0) "monitoring") | nindent 4 }}
    {{- with (index . 0).Values.monitoring.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
