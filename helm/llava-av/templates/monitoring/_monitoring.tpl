{{/* Fails where nothing would read the monitors. */}}
{{- define "llava-av.requireMonitoring" -}}
{{- if not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}
{{- fail "monitoring.operator needs the Prometheus operator, whose API monitoring.coreos.com/v1 the cluster does not have: install it first, or set monitoring.operator=false (helm template is told what a cluster has by --api-versions monitoring.coreos.com/v1)" -}}
{{- end -}}
{{- end -}}

{{/* The head of an object of the Prometheus operator. Takes (list $ kind name). */}}
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
