#!/usr/bin/env bash
# Prints the chart's README.md: what the chart is, and every value with its default and the comment above it in values.yaml. Fails for a value that no comment speaks of.
set -euo pipefail
chart=$(cd "$(dirname "$0")" && pwd)/bytebase-operator
cat <<'END'
<!-- Generated from values.yaml by charts/render-readme.sh. Do not edit: run `make generate`. -->
# bytebase-operator

A Kubernetes operator that runs [Bytebase](https://www.bytebase.com) with several replicas. How to install it, and what it does, stands in the
[documentation](https://github.com/bytebase-operator/bytebase-operator/blob/main/docs/install.md).

## Values

A misspelt value of this list is refused. What stands below one, such as the fields of an affinity, goes into an object of Kubernetes as it is.

| Value | Default | Meaning |
|---|---|---|
END
awk '
  function quit(message) { print "values.yaml:" FNR ": " message > "/dev/stderr"; failed = 1; exit 1 }
  /^ *# -- / { sub(/^ *# -- /, ""); text = $0; next }
  /^ *# / { if (text != "") { sub(/^ *# /, ""); text = text " " $0 }; next }
  /^ *[A-Za-z]+:/ {
    match($0, /^ */); depth = RLENGTH / 2
    key = $0; sub(/^ */, "", key); value = key
    sub(/:.*/, "", key); sub(/^[^:]*: */, "", value)
    # What stands below a value with a comment belongs to it.
    if (described != "" && depth > described) next
    described = ""
    path[depth] = key
    name = path[0]
    for (level = 1; level <= depth; level++) name = name "." path[level]
    if (text == "") {
      if (value != "") quit(name " has no comment that begins with `# --`")
      next
    }
    gsub(/\|/, "\\|", text)
    if (value == "") { described = depth; value = "see values.yaml" } else { value = "`" value "`" }
    print "| `" name "` | " value " | " text " |"
    text = ""
    next
  }
  /^$/ { text = "" }
' "$chart/values.yaml"
