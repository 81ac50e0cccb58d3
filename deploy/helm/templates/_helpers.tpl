{{- define "relay.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "relay.fullname" -}}
{{- $name := include "relay.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "relay.selectorLabels" -}}
app.kubernetes.io/name: {{ include "relay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "relay.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "relay.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "relay.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "relay.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "relay.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{- /* Of every Service. */}}
{{- define "relay.ipFamilies" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The most replicas that there can be. */}}
{{- define "relay.maxReplicas" -}}
{{ ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled | int }}
{{- end }}

{{- define "relay.hasClaims" -}}
{{- if or .Values.claims.url .Values.claims.existingSecret }}yes{{ end -}}
{{- end }}

{{- /* Seconds of `24h`, `1.5s`, `200ms` or a number. */}}
{{- define "relay.exactSeconds" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexFind "[a-z]+$" $text | default "s" -}}
{{- $factor := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit | default 1.0 -}}
{{ mulf $number $factor }}
{{- end }}

{{- /* The same, rounded up. */}}
{{- define "relay.seconds" -}}
{{ include "relay.exactSeconds" . | float64 | ceil | int }}
{{- end }}

{{- /* The number that Kubernetes means by `10Gi` or `100m`, and relay by `8GiB`; nothing if it is none. */}}
{{- define "relay.amount" -}}
{{- $text := toString . | trim -}}
{{- $number := regexFind "^([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text | trim -}}
{{- if regexMatch "^([kKmMgGtT][iI])?[bB]$" $unit -}}
{{- $unit = eq (len $unit) 1 | ternary "" (printf "%si" (substr 0 1 $unit | upper)) -}}
{{- end -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- if and $number (hasKey $factors $unit) }}{{ mulf (float64 $number) (get $factors $unit) }}{{ end -}}
{{- end }}

{{- define "relay.drainSeconds" -}}
{{- $drain := (include "relay.settings" . | fromJson).drain -}}
{{ add (include "relay.seconds" $drain.delay) (include "relay.seconds" $drain.timeout) }}
{{- end }}

{{- define "relay.gracePeriod" -}}
{{ .Values.terminationGracePeriodSeconds | default (add (include "relay.drainSeconds" .) 10) | int }}
{{- end }}

{{- /* Says yes if Kafka is shown the certificate of a KafkaUser. */}}
{{- define "relay.strimziCertificate" -}}
{{- if and (.Values.kafka.strimzi).user (eq .Values.kafka.securityProtocol "SSL") }}yes{{ end -}}
{{- end }}

{{- /* What an app's secrets are called in values and in Secrets, and in relay's environment. */}}
{{- define "relay.appSecretKeys" -}}
appSecret: APP_SECRET
encryptKey: ENCRYPT_KEY
previousEncryptKey: PREVIOUS_ENCRYPT_KEY
verificationToken: VERIFICATION_TOKEN
previousVerificationToken: PREVIOUS_VERIFICATION_TOKEN
helpdeskToken: HELPDESK_TOKEN
{{- end }}

{{- /* Whether an app must have an encrypt key: with somebody else's Secret a misspelt key in it would be a
missing one, and a token alone would do. Who says which keys are required, or that it is not signed, means it. */}}
{{- define "relay.signed" -}}
{{- $asked := or (not .requiredKeys) (has "encryptKey" .requiredKeys) (has "previousEncryptKey" .requiredKeys) -}}
{{- if hasKey . "signed" | ternary .signed (and .existingSecret $asked) }}yes{{ end -}}
{{- end }}

{{- /* Of `names`, the one that has the most pairs of letters in common with `name`. */}}
{{- define "relay.nearest" -}}
{{- $asked := lower .name -}}
{{- $nearest := first .names -}}
{{- $most := 0.0 -}}
{{- range $name := .names -}}
{{- $both := 0 -}}
{{- range $at := until (sub (len $asked) 1 | max 0 | int) -}}
{{- if contains (substr $at (add $at 2 | int) $asked) (lower $name) }}{{ $both = add1 $both }}{{ end -}}
{{- end -}}
{{- $likeness := divf (float64 $both) (add (len $asked) (len $name) | float64) -}}
{{- if gt $likeness $most }}{{ $most = $likeness }}{{ $nearest = $name }}{{ end -}}
{{- end -}}
{{- $nearest -}}
{{- end }}

{{- /* All settings that are no secrets, as JSON: relay.toml is made of it. */}}
{{- define "relay.settings" -}}
{{- $kafka := dict
  "bootstrap_servers" .Values.kafka.bootstrapServers "delivery" .Values.kafka.delivery
  "topic_prefix" .Values.kafka.topicPrefix "create_topics" .Values.kafka.createTopics
  "dead_letter_value" .Values.kafka.deadLetterValue
  "partitions" .Values.kafka.partitions "replication_factor" .Values.kafka.replicationFactor
  "security_protocol" .Values.kafka.securityProtocol "sasl_mechanism" .Values.kafka.saslMechanism -}}
{{- with .Values.kafka.topicConfig }}{{ $_ := set $kafka "topic_config" . }}{{ end -}}
{{- with .Values.kafka.oauth.tokenUrl }}{{ $_ := set $kafka "oauth_token_url" . }}{{ end -}}
{{- with .Values.kafka.oauth.clientId }}{{ $_ := set $kafka "oauth_client_id" . }}{{ end -}}
{{- with .Values.kafka.oauth.scope }}{{ $_ := set $kafka "oauth_scope" . }}{{ end -}}
{{- with .Values.kafka.saslUsername }}{{ $_ := set $kafka "sasl_username" . }}{{ end -}}
{{- $strimzi := default dict .Values.kafka.strimzi -}}
{{- if and $strimzi.user (not .Values.kafka.saslUsername) (hasPrefix "SASL" .Values.kafka.securityProtocol) }}{{ $_ := set $kafka "sasl_username" $strimzi.user }}{{ end -}}
{{- if $strimzi.cluster }}{{ $_ := set $kafka "ca_file" "/etc/relay/kafka-ca" }}{{ end -}}
{{- if .Values.kafka.tlsSecret }}{{ $_ := set $kafka "ca_file" "/etc/relay/kafka-tls/ca.crt" }}{{ end -}}
{{- if or .Values.kafka.mutualTls (include "relay.strimziCertificate" .) -}}
{{- $_ := set $kafka "cert_file" "/etc/relay/kafka-tls/tls.crt" -}}
{{- $_ := set $kafka "key_file" "/etc/relay/kafka-tls/tls.key" -}}
{{- end -}}
{{- $apps := dict -}}
{{- range $name, $app := .Values.apps -}}
{{- $one := dict "long_connection" (default false $app.longConnection) -}}
{{- with include "relay.signed" $app }}{{ $_ := set $one "signed" true }}{{ end -}}
{{- with $app.appId }}{{ $_ := set $one "app_id" . }}{{ end -}}
{{- with $app.feishuUrl }}{{ $_ := set $one "feishu_url" . }}{{ end -}}
{{- with $app.helpdeskId }}{{ $_ := set $one "helpdesk_id" (toString .) }}{{ end -}}
{{- $_ := set $apps $name $one -}}
{{- end -}}
{{- $settings := dict
  "apps" $apps
  "kafka" $kafka
  "privacy" (dict "drop" .Values.privacy.drop "hash" .Values.privacy.hash)
  "claims" (dict "on_outage" .Values.claims.onOutage)
  "drain" (dict "delay" .Values.drain.delay "timeout" .Values.drain.timeout)
  "admin" (dict "host" "::" "port" 9090)
  "webhook" (dict "host" "::" "port" 8080)
  "journal" (dict "path" "/var/lib/relay/journal.db")
  "log" (dict "format" "json") -}}
{{- if (.Values.console | default dict).enabled -}}
{{- $_ := set $settings "console" (dict "host" "::" "port" 9091 "peers" (printf "%s-headless:9091" (include "relay.fullname" .))) -}}
{{- end -}}
{{- mustMergeOverwrite $settings (deepCopy .Values.settings) | toJson -}}
{{- end }}

{{- /* The ports of what is called by HTTP, as JSON; 443 is always there: Feishu names its gateway itself. */}}
{{- define "relay.httpPorts" -}}
{{- $settings := include "relay.settings" . | fromJson -}}
{{- $urls := list (default "" $settings.feishu_url) (default "" $settings.kafka.oauth_token_url) -}}
{{- range $settings.apps }}{{ $urls = append $urls (default "" .feishu_url) }}{{ end -}}
{{- range .Values.extraEnv }}{{ if regexMatch "(?i)^https_proxy$" .name }}{{ $urls = append $urls (default "" .value) }}{{ end }}{{ end -}}
{{- $ports := list 443 -}}
{{- range compact $urls -}}
{{- $given := regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" -}}
{{- $ports = append $ports ($given | default (hasPrefix "https" . | ternary "443" "80") | int) -}}
{{- end -}}
{{- $ports | uniq | sortAlpha | toJson -}}
{{- end }}

{{- /* Event type, wildcard, `other` and `dead_letter` with their topics, without the prefix, as JSON. */}}
{{- define "relay.topics" -}}
{{- $given := default dict (include "relay.settings" . | fromJson).kafka.topics -}}
{{- $topics := deepCopy $given -}}
{{- range $type, $topic := dict
  "helpdesk.ticket_message.created_v1" "helpdesk.ticket_message"
  "helpdesk.ticket.created_v1" "helpdesk.ticket"
  "helpdesk.ticket.updated_v1" "helpdesk.ticket"
  "helpdesk.notification.approve_v1" "helpdesk.notification"
  "other" "other" "dead_letter" "dead_letter" -}}
{{- $named := hasKey $given $type -}}
{{- range $name, $_ := $given -}}
{{- if and (hasSuffix ".*" $name) (hasPrefix (trimSuffix "*" $name) $type) }}{{ $named = true }}{{ end -}}
{{- end -}}
{{- if not $named }}{{ $_ := set $topics $type $topic }}{{ end -}}
{{- end -}}
{{- $topics | toJson -}}
{{- end }}

{{- /* Says yes to a `host:port` that relay takes; the port may be left out. */}}
{{- define "relay.isPlace" -}}
{{- $label := "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?" -}}
{{- $named := regexMatch (printf "^%s(\\.%s)*\\.?(:[0-9]{1,5})?$" $label $label) . -}}
{{- $byte := "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])" -}}
{{- $numbered := regexMatch "(^|\\.)[0-9]+\\.?(:[0-9]*)?$" . -}}
{{- $four := regexMatch (printf "^%s(\\.%s){3}(:[0-9]{1,5})?$" $byte $byte) . -}}
{{- $six := regexMatch "^\\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\\](:[0-9]{1,5})?$" . -}}
{{- $port := regexFind ":[0-9]+$" . | trimPrefix ":" | default "1" | int -}}
{{- if and (or $six (ternary $four $named $numbered)) (ge $port 1) (le $port 65535) }}yes{{ end -}}
{{- end }}

{{- /* TOML of a dict: first its values, then its tables. Helm's own toToml makes floats of all numbers. */}}
{{- define "relay.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- if and (not (kindIs "map" $value)) (not (kindIs "invalid" $value)) }}
{{ toJson $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $inner := append $path (toJson $key) }}

[{{ join "." $inner }}]
{{- include "relay.toml" (dict "path" $inner "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Secrets that stand in the values, by the names of relay's variables. */}}
{{- define "relay.secrets" -}}
{{- $secrets := dict -}}
{{- $keys := include "relay.appSecretKeys" . | fromYaml -}}
{{- range $name, $app := .Values.apps -}}
{{- range $key, $variable := $keys -}}
{{- with get $app $key }}{{ $_ := set $secrets (printf "RELAY_APPS__%s__%s" (upper $name) $variable) (toString .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with .Values.claims.url }}{{ $_ := set $secrets "RELAY_CLAIMS__URL" . }}{{ end -}}
{{- with .Values.claims.sentinelPassword }}{{ $_ := set $secrets "RELAY_CLAIMS__SENTINEL_PASSWORD" . }}{{ end -}}
{{- with (.Values.console | default dict).password }}{{ $_ := set $secrets "RELAY_CONSOLE__PASSWORD" . }}{{ end -}}
{{- with .Values.privacy.salt }}{{ $_ := set $secrets "RELAY_PRIVACY__SALT" . }}{{ end -}}
{{- with .Values.kafka.oauth.clientSecret }}{{ $_ := set $secrets "RELAY_KAFKA__OAUTH_CLIENT_SECRET" (toString .) }}{{ end -}}
{{- with .Values.kafka.saslPassword }}{{ $_ := set $secrets "RELAY_KAFKA__SASL_PASSWORD" (toString .) }}{{ end -}}
{{- toJson $secrets -}}
{{- end }}

{{- /* One key of a Secret that somebody else made, as a file of the secrets directory. */}}
{{- define "relay.secretSource" -}}
- secret:
    name: {{ .name }}
    optional: {{ .optional }}
    items:
      - key: {{ .key }}
        path: {{ .path }}
{{- end }}

{{- define "relay.secretSources" -}}
{{- if include "relay.secrets" . | fromJson }}
- secret:
    name: {{ include "relay.fullname" . }}
{{- end }}
{{- $keys := merge (dict "appId" "APP_ID") (include "relay.appSecretKeys" . | fromYaml) }}
{{- range $name, $app := .Values.apps }}
{{- if $app.existingSecret }}
{{- range $key, $variable := $keys }}
{{ include "relay.secretSource" (dict "name" $app.existingSecret "key" $key "optional" (not (has $key (default list $app.requiredKeys)))
    "path" (printf "RELAY_APPS__%s__%s" (upper $name) $variable)) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.claims.existingSecret }}
{{ include "relay.secretSource" (dict "name" . "key" "url" "optional" false "path" "RELAY_CLAIMS__URL") }}
{{ include "relay.secretSource" (dict "name" . "key" "sentinelPassword" "optional" true "path" "RELAY_CLAIMS__SENTINEL_PASSWORD") }}
{{- end }}
{{- with (.Values.console | default dict).existingSecret }}
{{ include "relay.secretSource" (dict "name" . "key" "password" "optional" false "path" "RELAY_CONSOLE__PASSWORD") }}
{{- end }}
{{- with .Values.privacy.existingSecret }}
{{ include "relay.secretSource" (dict "name" . "key" "salt" "optional" false "path" "RELAY_PRIVACY__SALT") }}
{{- end }}
{{- with (.Values.kafka.strimzi).user }}
{{- if hasPrefix "SASL" $.Values.kafka.securityProtocol }}
{{ include "relay.secretSource" (dict "name" . "key" "password" "optional" false "path" "RELAY_KAFKA__SASL_PASSWORD") }}
{{- end }}
{{- end }}
{{- with .Values.kafka.existingSecret }}
{{- if eq $.Values.kafka.saslMechanism "OAUTHBEARER" }}
{{ include "relay.secretSource" (dict "name" . "key" "oauthClientSecret" "optional" false "path" "RELAY_KAFKA__OAUTH_CLIENT_SECRET") }}
{{- else }}
{{ include "relay.secretSource" (dict "name" . "key" "saslUsername" "optional" true "path" "RELAY_KAFKA__SASL_USERNAME") }}
{{ include "relay.secretSource" (dict "name" . "key" "saslPassword" "optional" false "path" "RELAY_KAFKA__SASL_PASSWORD") }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What every container of relay's image has. */}}
{{- define "relay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "relay.environment" -}}
- name: RELAY_CONFIG
  value: /etc/relay/relay.toml
- name: RELAY_SECRETS_DIR
  value: /etc/relay/secrets
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "relay.mounts" -}}
- name: config
  mountPath: /etc/relay/relay.toml
  subPath: relay.toml
  readOnly: true
- name: secrets
  mountPath: /etc/relay/secrets
  readOnly: true
{{- if or .Values.kafka.tlsSecret (include "relay.strimziCertificate" .) }}
- name: kafka-tls
  mountPath: /etc/relay/kafka-tls
  readOnly: true
{{- end }}
{{- if (.Values.kafka.strimzi).cluster }}
- name: kafka-ca
  mountPath: /etc/relay/kafka-ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "relay.volumes" -}}
- name: config
  configMap:
    name: {{ include "relay.fullname" . }}
- name: secrets
  projected:
    defaultMode: 0440
    sources: {{- include "relay.secretSources" . | trim | default "[]" | nindent 6 }}
{{- if .Values.kafka.tlsSecret }}
- name: kafka-tls
  secret:
    secretName: {{ .Values.kafka.tlsSecret }}
    defaultMode: 0440
{{- else if include "relay.strimziCertificate" . }}
- name: kafka-tls
  secret:
    secretName: {{ .Values.kafka.strimzi.user }}
    defaultMode: 0440
    items:
      - {key: user.crt, path: tls.crt}
      - {key: user.key, path: tls.key}
{{- end }}
{{- with (.Values.kafka.strimzi).cluster }}
# The whole Secret: while an authority is replaced, the one before stands beside it.
- name: kafka-ca
  secret:
    secretName: {{ . }}-cluster-ca-cert
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Where pods run, for all of them. */}}
{{- define "relay.scheduling" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
