# Sourced by quickstart.sh and test.sh: a virtual environment with Understudy in it, made once and reused.
#   UNDERSTUDY_VENV  where it goes (default: .venv in the repository)
#   PYTHON           which Python makes it (default: python3; 3.10 to 3.13)
# setup_environment cpu|auto EXTRAS…: `auto` takes torch's CUDA build where there is a CUDA device and CI is not set.

setup_environment() {
    local build=$1 extras=$2
    local venv=${UNDERSTUDY_VENV:-$repository/.venv} python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || {
        echo "error: $python is $("$python" --version 2>&1); Understudy needs Python 3.10 to 3.13" >&2
        echo "Set PYTHON=/path/to/python3.12 and run this again." >&2
        exit 3
    }
    [ "$build" = auto ] && { [ -z "${CI:-}" ] && nvidia-smi -L 2>/dev/null | grep -q GPU && build=cuda || build=cpu; }
    local stamp
    stamp="$build $extras $(cat pyproject.toml constraints.txt | cksum)"
    if [ "$(cat "$venv/understudy-stamp" 2>/dev/null)" != "$stamp" ]; then
        echo "installing into $venv ($build build of torch; about a minute)"
        "$python" -m venv "$venv"
        export PIP_DISABLE_PIP_VERSION_CHECK=1
        install_torch "$venv" "$build"
        "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".[$extras]"
        echo "$stamp" >"$venv/understudy-stamp"
    fi
    PATH=$venv/bin:$PATH
}

install_torch() {
    local pip="$1/bin/python -m pip install --quiet" torch
    torch=$(grep '^torch==' constraints.txt)
    # PyPI's Linux wheels are CUDA builds of several gigabytes; elsewhere they are CPU builds already.
    if [ "$2" = cuda ] || [ "$(uname)" != Linux ]; then
        $pip "$torch"
    else
        $pip "$torch+cpu" 2>/dev/null || $pip --extra-index-url https://download.pytorch.org/whl/cpu "$torch+cpu"
    fi
}
