{{/* Address of MLflow's database. */}}
{{- define "llava-av.databaseHost" -}}
{{- if .Values.postgresql.enabled -}}{{ include "llava-av.fullname" . }}-postgresql{{- else -}}{{ .Values.postgresql.external.host }}{{- end -}}
{{- end -}}

{{- define "llava-av.databasePort" -}}
{{- if .Values.postgresql.enabled -}}5432{{- else -}}{{ .Values.postgresql.external.port }}{{- end -}}
{{- end -}}

{{/* URI of the database, without the password, which would appear in arguments and logs. */}}
{{- define "llava-av.databaseUri" -}}
{{- with .Values.postgresql -}}
postgresql+psycopg2://{{ .username }}@{{ include "llava-av.databaseHost" $ }}:{{ include "llava-av.databasePort" $ }}/{{ .database }}
{{- end -}}
{{- end -}}

{{- define "llava-av.databaseVariables" -}}
{{- if .Values.postgresql.enabled -}}
{{- include "llava-av.secretVariable" (list "PGPASSWORD" (include "llava-av.serverSecrets" .) "postgresql-password") }}
- {name: PGSSLMODE, value: disable}
{{- else -}}
{{- include "llava-av.secretVariable" (list "PGPASSWORD" .Values.postgresql.external.existingSecret .Values.postgresql.external.passwordKey) }}
- {name: PGSSLMODE, value: {{ .Values.postgresql.external.sslMode }}}
{{- if .Values.caConfigMap }}
- {name: PGSSLROOTCERT, value: /etc/llava-av/ca/ca.crt}
{{- end }}
{{- end }}
- {name: DATABASE_URI, value: {{ include "llava-av.databaseUri" . | quote }}}
{{- end -}}

{{/* S3 variables of MLflow and of the job that removes deleted runs. */}}
{{- define "llava-av.s3Variables" -}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ include "llava-av.s3Endpoint" . | quote }}}
- {name: AWS_DEFAULT_REGION, value: {{ .Values.s3.region | quote }}}
{{ include "llava-av.secretVariable" (list "AWS_ACCESS_KEY_ID" (include "llava-av.credentials" .) "AWS_ACCESS_KEY_ID") }}
{{ include "llava-av.secretVariable" (list "AWS_SECRET_ACCESS_KEY" (include "llava-av.credentials" .) "AWS_SECRET_ACCESS_KEY") }}
{{- end -}}

{{/* Accepted Host headers: the Service, loopback for port-forward, the Ingress, and mlflow.allowedHosts. */}}
{{- define "llava-av.allowedHosts" -}}
{{- $service := printf "%s-mlflow" (include "llava-av.fullname" .) -}}
{{- $hosts := list "localhost" "127.0.0.1" $service (printf "%s.%s" $service .Release.Namespace) (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.%s" $service .Release.Namespace .Values.clusterDomain) -}}
{{- if .Values.mlflow.ingress.enabled -}}{{- $hosts = append $hosts .Values.mlflow.ingress.host -}}{{- end -}}
{{- $all := list -}}
{{- range concat $hosts .Values.mlflow.allowedHosts -}}
{{- $all = append $all . -}}
{{- if not (or (contains "*" .) (contains ":" .)) -}}{{- $all = append $all (printf "%s:*" .) -}}{{- end -}}
{{- end -}}
{{- join "," (uniq $all) -}}
{{- end -}}
