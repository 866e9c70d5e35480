#!/usr/bin/env bash
# Prepares the peers: a virtual environment each for PyTorch and llama.cpp, candle's binary, and the
# model as llama.cpp reads it.
#
#     ./setup.sh MODEL_FOLDER TOKENIZER.gguf
#
# MODEL_FOLDER is a bf16 Hugging Face folder of a Llama-type model; TOKENIZER.gguf any GGUF file of
# the same model, whose tokenizer is copied.
set -euo pipefail
folder="$(realpath "${1:?usage: setup.sh MODEL_FOLDER TOKENIZER.gguf}")"
tokenizer="$(realpath "${2:?usage: setup.sh MODEL_FOLDER TOKENIZER.gguf}")"
cd "$(dirname "${BASH_SOURCE[0]}")"

for peer in torch llama; do
    [ -x ".venv/$peer/bin/python" ] || python3 -m venv ".venv/$peer"
    ".venv/$peer/bin/python" -m pip install --quiet --requirement "requirements-$peer.txt"
done
(cd candle && cargo build --release --locked)
.venv/llama/bin/python gguf_from_folder.py "$folder" "$tokenizer" .venv/model-bf16.gguf
(cd ../.. && cargo build --release --package grail-cli)
echo "ready: ./run.py $folder"
