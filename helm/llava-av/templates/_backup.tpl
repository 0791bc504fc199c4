{{/* A pod that creates or restores a backup.
     Takes (dict "root" $ "step" name "init" containers "containers" containers). */}}
{{- define "llava-av.backupPod" -}}
metadata:
  labels: {{- include "llava-av.podLabels" (list .root "backup") | nindent 4 }}
    llava-av/internal: "true"
    llava-av/step: {{ .step }}
spec: {{- include "llava-av.pod" (dict "root" .root "user" 1000) | nindent 2 }}
  restartPolicy: Never
  {{- with .init }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers: {{- .containers | nindent 4 }}
  volumes:
    - {name: backup, emptyDir: {sizeLimit: {{ .root.Values.backup.scratchSize }}}}
    - {name: scripts, configMap: {name: {{ include "llava-av.fullname" .root }}-backup}}
    {{- include "llava-av.trustVolume" .root | nindent 4 }}
{{- end -}}

{{/* A container with PostgreSQL's client programs. Takes (list $ command-as-json). */}}
{{- define "llava-av.backupDatabase" -}}
{{- $root := index . 0 -}}
- name: database
  {{- include "llava-av.container" (list $root "postgresql") | nindent 2 }}
  command: {{ index . 1 }}
  env:
    {{- include "llava-av.databaseVariables" $root | nindent 4 }}
    - {name: PGHOST, value: {{ include "llava-av.databaseHost" $root }}}
    - {name: PGPORT, value: {{ include "llava-av.databasePort" $root | quote }}}
    - {name: PGUSER, value: {{ $root.Values.postgresql.username }}}
    - {name: PGDATABASE, value: {{ $root.Values.postgresql.database }}}
  {{- include "llava-av.backupRest" $root | nindent 2 }}
{{- end -}}

{{/* A container that runs `llava-av backup`. Takes (list $ arguments-as-json). */}}
{{- define "llava-av.backupBucket" -}}
{{- $root := index . 0 -}}
{{- $backup := $root.Values.backup -}}
- name: bucket
  {{- include "llava-av.container" (list $root "pipeline") | nindent 2 }}
  args: {{ index . 1 }}
  env:
    {{- include "llava-av.secretVariable" (list "AWS_ACCESS_KEY_ID" (include "llava-av.credentials" $root) "AWS_ACCESS_KEY_ID") | nindent 4 }}
    {{- include "llava-av.secretVariable" (list "AWS_SECRET_ACCESS_KEY" (include "llava-av.credentials" $root) "AWS_SECRET_ACCESS_KEY") | nindent 4 }}
    {{- include "llava-av.secretVariable" (list "BACKUP_AWS_ACCESS_KEY_ID" $backup.existingSecret "AWS_ACCESS_KEY_ID") | nindent 4 }}
    {{- include "llava-av.secretVariable" (list "BACKUP_AWS_SECRET_ACCESS_KEY" $backup.existingSecret "AWS_SECRET_ACCESS_KEY") | nindent 4 }}
    - {name: BACKUP_AWS_ENDPOINT_URL_S3, value: {{ $backup.endpoint | quote }}}
    - {name: BACKUP_AWS_REGION, value: {{ $backup.region }}}
    - {name: BACKUP_LLAVA_AV_BUCKET, value: {{ $backup.bucket | quote }}}
    - {name: TMPDIR, value: /backup}
    {{- include "llava-av.trustVariables" $root | nindent 4 }}
  envFrom:
    - configMapRef: {name: {{ $root.Values.services.name }}}
  {{- include "llava-av.backupRest" $root | nindent 2 }}
{{- end -}}

{{- define "llava-av.backupRest" -}}
resources: {requests: {cpu: 50m, memory: 256Mi}, limits: {memory: 1Gi}}
volumeMounts:
  - {name: backup, mountPath: /backup}
  - {name: scripts, mountPath: /etc/llava-av/backup, readOnly: true}
  {{- include "llava-av.trustMount" . | nindent 2 }}
{{- end -}}
