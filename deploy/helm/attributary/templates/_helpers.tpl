{{/* Name of the objects of a part: "release-attributary-gateway". Arguments: root, part. */}}
{{- define "attributary.name" -}}
{{- $base := .root.Release.Name -}}
{{- if not (contains "attributary" $base) -}}{{- $base = printf "%s-attributary" $base -}}{{- end -}}
{{- printf "%s-%s" ($base | trunc 50 | trimSuffix "-") .part -}}
{{- end -}}

{{- define "attributary.selector" -}}
app.kubernetes.io/name: attributary
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "attributary.labels" -}}
{{ include "attributary.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "attributary.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- define "attributary.bundleMount" -}}
- name: bundle
  mountPath: /bundles
  readOnly: true
{{- end -}}

{{/* The volume is mounted, not the bundle in it: a mounted directory would go on being the old one after a compaction. */}}
{{- define "attributary.bundlePath" -}}
/bundles{{ with .Values.bundle.subPath }}/{{ . }}{{ end }}
{{- end -}}

{{/* What every container may not do. */}}
{{- define "attributary.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Argument: the image's user. */}}
{{- define "attributary.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}
