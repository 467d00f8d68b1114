#!/bin/bash
# tools/demo.sh BUILD_DIR: text -> tokenizer and shards -> model -> artifact -> verdict,
# and a table that compares the result with general compressors on the same text.
# TEXT=FILE: your text (.txt, .jsonl, .md ...) instead of the Perl manual. DEMO_OUT: where
# to write (BUILD_DIR/demo). DEMO_SECONDS: training time (90).
set -euo pipefail
export LC_ALL=C

build=$(cd "${1:-build}" && pwd)
[ -z "${TEXT:-}" ] || TEXT=$(realpath -- "$TEXT")
[ -z "${DEMO_OUT:-}" ] || DEMO_OUT=$(realpath -m -- "$DEMO_OUT")
cd "$(dirname "$0")/.."
birdie="$build/birdie"
out=${DEMO_OUT:-$build/demo}
seconds=${DEMO_SECONDS:-90}
budget=600000
val_bytes=300000 # scored text at most; more only takes longer
cpus=$(nproc 2>/dev/null || echo 2)
other=$((cpus > 1 ? 1 : 2)) # verify on another thread count than compile's

now() { date +%s.%N; }
since() { perl -e 'printf "%.1f", $ARGV[0] - $ARGV[1]' "$(now)" "$1"; }
# value FILE.json KEY.KEY
value() {
    perl -MJSON::PP -e 'local $/; open my $f, "<", shift or die "$!\n"; my $v = decode_json(<$f>);
        $v = $v->{$_} for split /\./, shift; print $v' "$1" "$2"
}
exec 3>&1 # commands are shown here, also where their output goes to a file
step() { printf '\n== %s\n' "$1"; began=$(now); }
run() {
    printf '$ %s\n' "${*//$build/$shown}" >&3
    "$@"
}
shown=${build#"$PWD"/}

begin=$(now)
mkdir -p "$out"
rm -rf "$out/data" "$out/run" "$out"/*.birdie "$out"/*.json
text=${TEXT:-}
if [ -z "$text" ]; then
    step "The Perl manual as plain prose"
    text="$out/perl_manual.txt"
    tools/perl_manual >"$text.part"
    mv "$text.part" "$text"
fi
[ -s "$text" ] || { echo "demo: $text is missing or empty" >&2; exit 2; }
size=$(stat -c %s -- "$text")
# At most 5 % of the text.
fraction=$(perl -e 'my $f = $ARGV[0] / $ARGV[1]; printf "%.6f", $f < 0.05 ? $f : 0.05' "$val_bytes" "$size")
printf '%s: %s bytes, sha256 %s\n' "$text" "$size" "$(sha256sum <"$text" | cut -c1-16)"

step "Tokenizer and shards"
run "$birdie" tokenize --train-tokenizer 1024 --val-fraction "$fraction" --out "$out/data" -- "$text"
[ -s "$out/data/data_val_000000.bin" ] || {
    echo "demo: no document was drawn for validation; the text needs more documents (parts between blank lines)" >&2
    exit 2
}
t_tokenize=$(since "$began")

step "Training, $seconds s"
run "$birdie" train configs/demo.json --data "$out/data" --out "$out/run" --time "$seconds"
t_train=$(since "$began")

score="--data $out/data --tokenizer $out/data/tokenizer.model"
step "Score of the trained float32 model"
run "$birdie" eval "$out/run" $score --window 512 --json >"$out/float.json"
printf 'val_bpb %.4f\n' "$(value "$out/float.json" val_bpb)"
t_float=$(since "$began")

step "Compiling into at most $budget bytes, with a claim about its score"
run "$birdie" compile "$out/run" --calib "$out/data" --budget $budget --protocol configs/demo_protocol.json \
    --claim "$out/data" --tokenizer "$out/data/tokenizer.model" --out "$out/demo.birdie" --json >"$out/compile.json"
printf 'artifact %s bytes, claimed val_bpb %.4f\n' "$(value "$out/compile.json" artifact_bytes)" \
    "$(value "$out/compile.json" claim.val_bpb)"
t_compile=$(since "$began")

step "Score of the artifact without test-time training"
echo '{"kind": "window", "window": 512}' >"$out/window.json"
run "$birdie" eval "$out/demo.birdie" $score --protocol "$out/window.json" --json >"$out/static.json"
printf 'val_bpb %.4f\n' "$(value "$out/static.json" val_bpb)"
t_static=$(since "$began")

step "Verifying the artifact, test-time training included, on $other thread(s)"
run "$birdie" verify "$out/demo.birdie" $score --text "$out/data/data_val.txt" --threads "$other"
t_verify=$(since "$began")

step "General compressors on the same text"
val="$out/data/data_val.txt"
plain=$(stat -c %s "$val")
gz=$(gzip -9 -n -c "$val" | wc -c)
xz=$(xz -9e -c "$val" | wc -c)
br=$(brotli -q 11 -w 24 -c "$val" | wc -c)
t_other=$(since "$began")

bytes=$(value "$out/compile.json" claim.bytes)
row() { printf '| %-38s | %9s | %12s |\n' "$1" "$2" "$3"; }
bpb() { perl -e 'printf "%.4f", $ARGV[0]' "$1"; }
packed() { perl -e 'printf "%.4f", 8 * $ARGV[0] / $ARGV[1]' "$1" "$plain"; }
coded() { perl -e 'printf "%.0f", $ARGV[0] * $ARGV[1] / 8' "$1" "$bytes"; }
model_row() { row "$1" "$(bpb "$2")" "$(coded "$2")"; }
echo
echo "Validation text: $plain bytes that no step but scoring has seen"
row "" "bits/byte" "text, bytes"
row "--------------------------------------" "--------:" "-----------:"
row "gzip -9" "$(packed "$gz")" "$gz"
row "brotli -q 11" "$(packed "$br")" "$br"
row "xz -9e" "$(packed "$xz")" "$xz"
model_row "model, float32" "$(value "$out/float.json" val_bpb)"
model_row "artifact" "$(value "$out/static.json" val_bpb)"
model_row "artifact, learning from what it scored" "$(value "$out/compile.json" claim.val_bpb)"
printf '\nartifact   %s bytes of %s allowed; float32 weights %s bytes\n' \
    "$(value "$out/compile.json" artifact_bytes)" "$budget" "$(stat -c %s "$out/run/model.safetensors")"
printf 'seconds    tokenize %s, train %s, float score %s, compile and claim %s, score %s, verify %s, other %s\n' \
    "$t_tokenize" "$t_train" "$t_float" "$t_compile" "$t_static" "$t_verify" "$t_other"
printf 'total      %s s on %s processor(s); files in %s\n' "$(since "$begin")" "$cpus" "$out"
