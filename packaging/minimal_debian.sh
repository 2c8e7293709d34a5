#!/usr/bin/env bash
# Proves that the README's commands need no more than the README says: makes a Debian with nothing in it,
# installs the stated prerequisites, clones this repository inside and runs the commands there. Needs
# root and debootstrap; takes 10 to 25 minutes and 4 GB, all in a folder that is removed afterwards.
#
#   sudo packaging/minimal_debian.sh ['make test' 'make run']
#
# Options, all environment variables and all empty by default:
#   ROOT     the folder to use; kept afterwards, used again as it is if it holds a system already
#   SUITE    the release, bookworm if not set            MIRROR   where debootstrap finds it
#   BIND     folders of this machine to show inside, read-only, at the same path (a wheel house)
#   COPY     files or folders of this machine to copy inside, to the same path (pip.conf, certificates)
#   PASS     names of environment variables to pass inside (PIP_..., http_proxy)
set -euo pipefail

# Mounts made from here on vanish with this process, however it ends.
if [ -z "${IN_OWN_MOUNTS:-}" ]; then
    IN_OWN_MOUNTS=1 exec unshare --mount --propagation private "$0" "$@"
fi

repository=$(cd "$(dirname "$0")/.." && pwd)
suite=${SUITE:-bookworm}
if [ "$#" = 0 ]; then set -- 'make test' 'make run'; fi
if [ -z "${ROOT:-}" ]; then
    root=$(mktemp -d -t minimal-debian.XXXXXX)
    trap 'umount -R "$root/proc" "$root/dev" 2>/dev/null || true
          for folder in ${BIND:-}; do umount "$root$folder" 2>/dev/null || true; done
          rm -rf --one-file-system "$root"' EXIT
else
    mkdir -p "$ROOT"
    root=$(cd "$ROOT" && pwd)
fi

inside() {
    local passed=() name
    for name in ${PASS:-}; do passed+=("$name=${!name-}"); done
    env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        ${passed[@]+"${passed[@]}"} chroot "$root" /bin/sh -c "$1"
}

timed() {
    local begun=$SECONDS
    printf '\n#### %s\n' "$1"
    if inside "$2" </dev/null; then
        printf '#### %s: passed, %d s\n' "$1" $((SECONDS - begun))
    else
        printf '#### %s: FAILED, %d s\n' "$1" $((SECONDS - begun))
        exit 1
    fi
}

if [ ! -e "$root/etc/debian_version" ]; then
    debootstrap --variant=minbase "$suite" "$root" ${MIRROR:+"$MIRROR"} >"$root.log" 2>&1 ||
        { tail -20 "$root.log"; exit 1; }
    rm -f "$root.log"
fi
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder in ${BIND:-}; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,bind,ro "$root$folder"
done

timed 'the prerequisites of the README' \
    'apt-get update -qq && apt-get install -y -qq --no-install-recommends make git ca-certificates >/dev/null'
# Only now: installing ca-certificates would write over the certificates.
for path in ${COPY:-}; do
    mkdir -p "$root$(dirname "$path")"
    cp -rL "$path" "$root$(dirname "$path")/"
done
rm -rf "$root/root/repository.git" "$root/root/dragoman"
git clone -q --bare "$repository" "$root/root/repository.git"
chown -R 0:0 "$root/root/repository.git"
timed 'git clone' 'git clone -q /root/repository.git /root/dragoman'
for command in "$@"; do
    timed "$command" "cd /root/dragoman && $command"
done
du -sh "$root/root/dragoman" | sed 's/^/#### the checkout with its environment: /; s/\t.*//'
