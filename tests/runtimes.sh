#!/bin/sh
# Installs each runtime extra alone, streams a recording with it, and shows that nothing else came along.
set -eu
python=${PYTHON:-python3}
wav=$(mktemp -d)/tone.wav
.venv/bin/python - "$wav" <<'PY'
import sys, wave
import numpy as np
tone = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(6 * 44100) / 44100) * 32767).astype("<i2")
with wave.open(sys.argv[1], "wb") as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(44100), file.writeframes(tone.tobytes())
PY
for extra in runtime runtime-onnx runtime-tflite; do
    env=.venv-$extra
    if [ "$extra" = runtime-tflite ] && ! "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
        echo "$extra: tflite-runtime has no wheel for this Python, skipped"
        continue
    fi
    [ -x $env/bin/python ] || "$python" -m venv $env
    $env/bin/python -m pip install --quiet ".[$extra]"
    (cd / && "$OLDPWD/$env/bin/python" -m runtime.stream --wav "$wav" --jsonl >/dev/null)
    lines=$(cd / && "$OLDPWD/$env/bin/python" -m runtime.stream --wav "$wav" --jsonl 2>/dev/null | wc -l)
    [ "$lines" -ge 2 ] || { echo "$extra: $lines decisions on six seconds of sound"; exit 1; }
    $env/bin/python -m pip list 2>/dev/null | grep -iE '^(torch|scipy|librosa|tensorflow) ' && exit 1
    (cd / && "$OLDPWD/$env/bin/python" -m runtime.bundle --check)
    echo "$extra: $lines decisions"
done
