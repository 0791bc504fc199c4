{{/* Metadata of a NetworkPolicy. Takes (list $ name). */}}
{{- define "llava-av.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "llava-av.fullname" (index . 0) }}-{{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels: {{- include "llava-av.labels" (list (index . 0) "network") | nindent 4 }}
{{- end -}}

{{/* Port of an address such as https://host:9000. */}}
{{- define "llava-av.urlPort" -}}
{{- $host := (urlParse .).host -}}
{{- if regexMatch ":[0-9]+$" $host -}}{{ regexFind "[0-9]+$" $host }}{{- else if hasPrefix "https" . -}}443{{- else -}}80{{- end -}}
{{- end -}}

{{/* Ports of the hosts of media, as a list; empty without hosts. */}}
{{- define "llava-av.mediaPorts" -}}
{{- $ports := list -}}
{{- range .Values.serving.mediaHosts -}}
{{- $ports = append $ports (include "llava-av.urlPort" (ternary . (printf "https://%s" .) (contains "://" .)) | int) -}}
{{- end -}}
{{- $rules := list -}}
{{- range uniq $ports | sortAlpha -}}{{- $rules = append $rules (dict "port" (int .)) -}}{{- end -}}
{{- with $rules -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* An egress rule to a server: the chart's pods or CIDRs. Takes (list $ part port cidrs). */}}
{{- define "llava-av.toServer" -}}
{{- $root := index . 0 -}}
{{- if (index $root.Values (index . 1)).enabled -}}
- to: [{podSelector: {matchLabels: {{ include "llava-av.selector" (list $root (index . 1)) | fromYaml | toJson }}}}]
  ports: [{port: {{ index . 2 }}}]
{{- else if index . 3 -}}
- to: {{- range index . 3 }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  ports: [{port: {{ index . 2 }}}]
{{- else -}}
- ports: [{port: {{ index . 2 }}}]
{{- end -}}
{{- end -}}

{{- define "llava-av.toS3" -}}
{{- $port := ternary (include "llava-av.s3Port" .) (include "llava-av.urlPort" .Values.s3.external.endpoint) .Values.s3.enabled -}}
{{ include "llava-av.toServer" (list $ "s3" $port .Values.networkPolicies.s3Cidrs) }}
{{- end -}}

{{- define "llava-av.toMlflow" -}}
{{- $port := ternary "5000" (include "llava-av.urlPort" .Values.mlflow.external.trackingUri) .Values.mlflow.enabled -}}
{{ include "llava-av.toServer" (list $ "mlflow" $port .Values.networkPolicies.mlflowCidrs) }}
{{- end -}}

{{- define "llava-av.toPostgresql" -}}
{{ include "llava-av.toServer" (list $ "postgresql" (include "llava-av.databasePort" .) .Values.networkPolicies.postgresqlCidrs) }}
{{- end -}}
