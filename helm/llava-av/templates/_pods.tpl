{{/* Fields that all pods share. Takes (dict "root" $ "user" 1000 "token" false "priority" true), and "placement" if it is
     not that of the values. */}}
{{- define "llava-av.pod" -}}
{{- $placement := .placement | default .root.Values.placement -}}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with $placement.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $placement.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .priority $placement.priorityClassName }}
priorityClassName: {{ $placement.priorityClassName }}
{{- end }}
{{- end -}}

{{/* Fields that all containers share. Takes (list $ image-key). */}}
{{- define "llava-av.container" -}}
image: {{ include "llava-av.image" . }}
imagePullPolicy: {{ (index . 0).Values.images.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Variables, mount and volume of a private certificate authority. A test keeps the variables equal to
     TRUST_VARIABLES of llava_av.launch. */}}
{{- define "llava-av.trustVariables" -}}
{{- if .Values.caConfigMap }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "CURL_CA_BUNDLE" "AWS_CA_BUNDLE" }}
- {name: {{ . }}, value: /etc/llava-av/ca/ca.crt}
{{- end }}
{{- end }}
{{- end -}}

{{- define "llava-av.trustMount" -}}
{{- if .Values.caConfigMap }}
- {name: ca, mountPath: /etc/llava-av/ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "llava-av.trustVolume" -}}
{{- if .Values.caConfigMap }}
- {name: ca, configMap: {name: {{ .Values.caConfigMap }}}}
{{- end }}
{{- end -}}

{{/* A variable from a Secret. Takes (list name secret key). */}}
{{- define "llava-av.secretVariable" -}}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ index . 1 }}, key: {{ index . 2 }}}}
{{- end -}}

{{/* The volume of a server. Takes (list $ part), where part is `s3` or `postgresql`. */}}
{{- define "llava-av.dataVolume" -}}
{{- $persistence := (index (index . 0).Values (index . 1)).persistence -}}
- name: data
  persistentVolumeClaim:
    claimName: {{ $persistence.existingClaim | default (printf "%s-%s" (include "llava-av.fullname" (index . 0)) (index . 1)) }}
{{- end -}}

{{/* The PersistentVolumeClaim of a server, as a separate document. Takes (list $ part). */}}
{{- define "llava-av.dataClaim" -}}
{{- $root := index . 0 -}}
{{- $persistence := (index $root.Values (index . 1)).persistence -}}
{{- if not $persistence.existingClaim }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "llava-av.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "llava-av.labels" . | nindent 4 }}
  {{- include "llava-av.kept" $root }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with $persistence.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ $persistence.size }}}}
{{- end }}
{{- end -}}
