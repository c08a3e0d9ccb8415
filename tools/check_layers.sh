#!/usr/bin/env bash
# Holds every #include of the tree against tools/layers.txt. Prints each breach; exit 1 if any.
#   tools/check_layers.sh [TREE]      another tree than this one, for the test of the test
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$here/..}"

find base api engine cuda service client bench examples tests -type f \
    \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.inc' \) \
    -print0 2>/dev/null | sort -z |
    xargs -0 grep -HE '^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]' |
    awk -v table="$here/layers.txt" '
function starts(text, prefix) { return substr(text, 1, length(prefix)) == prefix }
function any_starts(text, list,    words, count, i) {
    count = split(list, words, " ")
    for (i = 1; i <= count; i++) {
        if (starts(text, words[i])) { return 1 }
    }
    return 0
}
function breach(why) { print file ": " why; breaches++ }
BEGIN {
    while ((getline line < table) > 0) {
        sub(/#.*/, "", line)
        if (line ~ /^[[:space:]]*$/) { continue }
        kind = name = rest = line
        sub(/[[:space:]].*/, "", kind)
        sub(/^[a-z]+[[:space:]]+/, "", name)
        sub(/^[^:]*:?/, "", rest)
        sub(/[[:space:]]*:.*/, "", name)
        sub(/[[:space:]]+$/, "", name)
        if (kind == "layer") { layer[name] = rest }
        else if (kind == "file") { extra[name] = rest }
        else if (kind == "door") { door[name] = rest }
        else if (kind == "free") { free[name] = 1 }
        else { print table ": " line; exit 2 }
        rows++
    }
    if (rows == 0) { print table ": no such table"; exit 2 }
}
{
    file = $0; sub(/:.*/, "", file)
    folder = file; sub(/\/.*/, "", folder)
    include = $0; sub(/^[^:]*:[^<"]*/, "", include)
    quote = substr(include, 1, 1)
    include = substr(include, 2); sub(/[>"].*/, "", include)
    seen++
    if (quote == "<") {
        for (prefix in door) {
            if (starts(include, prefix) && !any_starts(file, door[prefix])) {
                breach("<" include "> has its door elsewhere:" door[prefix])
            }
        }
        next
    }
    if (folder in free) { next }
    if (include !~ /\//) { breach("\"" include "\" is not relative to the root"); next }
    if (starts(include, folder "/")) { next }
    if (!(folder in layer)) { breach("folder " folder " is not in the table"); next }
    if (!any_starts(include, layer[folder] " " extra[file])) {
        breach("\"" include "\" is above or beside " folder)
    }
}
END {
    if (seen == 0) { print "no include was seen: a wrong tree?"; exit 2 }
    if (breaches) { exit 1 }
}'
