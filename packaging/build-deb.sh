#!/usr/bin/env bash
# Builds the Debian package into target/debian/ and proves it: contents, installation into a
# scratch root, `check` of the installed config. Needs dpkg-deb; installs cargo-deb into
# target/tools when there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

# Pinned: what it generates into the maintainer scripts is part of the package.
CARGO_DEB_VERSION=3.8.0

export PATH="$PWD/target/tools/bin:$PATH"
if ! cargo deb --version 2>/dev/null | grep -qF "$CARGO_DEB_VERSION"; then
    cargo install cargo-deb --version "$CARGO_DEB_VERSION" --locked --root target/tools \
        --target-dir target/cargo-deb
fi

cargo deb --locked --output target/debian/
deb=$(ls -t target/debian/log-capturer_*.deb | head -n 1)

fail() {
    echo "$deb: $*" >&2
    exit 1
}

contents=$(dpkg-deb --contents "$deb")
for path in \
    ./usr/bin/log-capturer \
    ./etc/log-capturer/log-capturer.yaml \
    ./usr/lib/systemd/system/log-capturer.service \
    ./usr/lib/sysusers.d/log-capturer.conf \
    ./usr/share/man/man8/log-capturer.8.gz \
    ./usr/share/doc/log-capturer/README.md \
    ./usr/share/doc/log-capturer/copyright; do
    grep -qE " ${path//./\\.}$" <<<"$contents" || fail "$path is missing"
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
dpkg-deb --raw-extract "$deb" "$scratch/root"
grep -qx /etc/log-capturer/log-capturer.yaml "$scratch/root/DEBIAN/conffiles" ||
    fail "the config is not a conffile"
for script in postinst prerm postrm; do
    sh -n "$scratch/root/DEBIAN/$script" || fail "$script is no shell script"
    if grep -qF '#DEBHELPER#' "$scratch/root/DEBIAN/$script"; then
        fail "$script lacks its generated part"
    fi
done
# Relative paths of the config's checks must not matter: a scratch root stands for /.
"$scratch/root/usr/bin/log-capturer" check \
    --config "$scratch/root/etc/log-capturer/log-capturer.yaml" >/dev/null ||
    fail "the installed config is refused"
if command -v systemd-analyze >/dev/null; then
    unit="$scratch/root/usr/lib/systemd/system/log-capturer.service"
    sed -i "s|=/usr/bin/|=$scratch/root/usr/bin/|" "$unit"
    # The manual page is not installed on this machine: the rest is what counts.
    systemd-analyze verify --man=no "$unit" || fail "systemd refuses the unit"
fi
echo "$deb: $(stat -c %s "$deb") bytes"
