#!/bin/sh
# Plays minutes of real recordings into a virtual microphone in real time and compares what the stream hears with the file:
# every sample, every event.  sh tests/virtual_microphone.sh [MINUTES]
# The microphone is the monitor of a PulseAudio null sink, in a server of its own that ends with this script.
set -eu
minutes=${1:-10}
packages="pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
if ! command -v pulseaudio >/dev/null || ! command -v pacat >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null
    else
        echo "a virtual microphone needs: sudo apt install $packages" >&2
        exit 1
    fi
fi
scratch=$(mktemp -d)
export HOME="$scratch" XDG_RUNTIME_DIR="$scratch" PULSE_RUNTIME_PATH="$scratch"
trap 'pulseaudio --kill 2>/dev/null; rm -rf "$scratch"' EXIT
printf 'pcm.!default { type pulse }\nctl.!default { type pulse }\n' >"$scratch/.asoundrc"
pulseaudio -n --daemonize=yes --exit-idle-time=-1 --log-level=error \
    -L "module-null-sink sink_name=virtual rate=44100 channels=1 format=s16le" -L module-native-protocol-unix
for _ in 1 2 3 4 5 6 7 8 9 10; do pactl info >/dev/null 2>&1 && break || sleep 0.5; done
pactl set-default-source virtual.monitor
.venv/bin/python -m train.soundscape --out "$scratch/stream.wav" --minutes "$minutes"
.venv/bin/python -m tests.virtual_microphone "$scratch/stream.wav"
