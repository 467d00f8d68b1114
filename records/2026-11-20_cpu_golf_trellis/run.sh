#!/bin/bash
# Repeats this record: run.sh DATA OUT
# DATA holds tokenizers/, text/ and tokens/ of the shared test data; OUT is made.
# Training, statistics and compile together may take 600 s on 2 processors; this
# prints what they took. Needs a built program (make): BIRDIE names it, else build/birdie.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2 birdie=${BIRDIE:-$here/../../build/birdie}
tok=$data/tokenizers/fineweb_1024_bpe.model
mkdir -p "$out/data"

# Data preparation: FineWeb training text twice, and the first books. One stream, shuffled by the loader.
"$birdie" tokenize --tokenizer "$tok" --val-docs 0 --out "$out/fineweb" "$data/text/fineweb_train_head.txt"
head -c "$(cat "$here/book_bytes")" "$data/text/classic_books_train.txt" | iconv -c -f UTF-8 -t UTF-8 >"$out/books.txt"
"$birdie" tokenize --tokenizer "$tok" --val-docs 0 --split file --out "$out/books" "$out/books.txt"
cp "$out/fineweb/data_train_000000.bin" "$out/data/data_train_000000.bin"
cp "$out/fineweb/data_train_000000.bin" "$out/data/data_train_000001.bin"
cp "$out/books/data_train_000000.bin" "$out/data/data_train_000002.bin"

start=$(date +%s.%N)
"$birdie" train "$here/recipe.json" --data "$out/data" --out "$out/run"
"$birdie" compile "$out/run" --calib "$out/fineweb/data_train_000000.bin" --budget 1000000 --knob calib_tokens=32768 --tokenizer "$tok" \
    --protocol "$here/protocol.json" --out "$out/golf.birdie" --plan "$out/plan.txt"
awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "training, statistics and compile: %.1f s of 600\n", b - a }'
sha256sum "$out/golf.birdie"
"$birdie" verify "$out/golf.birdie" --data "$data/tokens/fineweb_val_000000.sp1024.bin" --tokenizer "$tok" \
    --max-tokens 262144 --rules "$here/../../rules/cpu-golf.json" --json >"$out/verdict.json"
cat "$out/verdict.json"
