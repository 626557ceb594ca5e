#!/bin/sh
# install.sh - called by `make install`; the arguments are its directories, in this order.
# An existing configuration is left alone: the new one is put beside it as an example.
set -eu

if [ $# -ne 10 ]; then
    echo "usage: contrib/install.sh DESTDIR BUILD SBINDIR BINDIR LIBEXECDIR PLUGINDIR" \
        "UNITDIR MANDIR DOCDIR SYSCONFDIR (use 'make install')" >&2
    exit 2
fi
destdir=$1 build=$2 sbindir=$3 bindir=$4 libexecdir=$5
plugindir=$6 unitdir=$7 mandir=$8 docdir=$9
shift 9
sysconfdir=$1
here=$(cd "$(dirname "$0")/.." && pwd)

put() { # MODE DIRECTORY FILE...
    mode=$1 dir=$destdir$2
    shift 2
    install -d -m 755 "$dir"
    install -m "$mode" "$@" "$dir"
}

# Paths in units and the example follow the directories of this call.
put_with_paths() { # DIRECTORY FILE
    install -d -m 755 "$destdir$1"
    sed -e "s,/usr/sbin/,$sbindir/,g" -e "s,/usr/lib/vine-env/,$plugindir/,g" \
        -e "s,/etc/vine-env/,$sysconfdir/vine-env/,g" "$2" >"$destdir$1/${2##*/}"
    chmod 644 "$destdir$1/${2##*/}"
}

put 755 "$sbindir" "$build/vined" "$build/vine-managerd"
put 755 "$bindir" "$build/vine-env"
put 755 "$libexecdir" "$build/vine-source" "$build/vine-squash" \
    "$build/vine-lazy" "$build/vine-remote"
put 644 "$libexecdir" "$build/unpack_pixi.py"
# A plugin that runs is mapped by slurmstepd: write a new file, never into the old one.
put 755 "$plugindir" "$build/vine_env.so"

put_with_paths "$unitdir" "$here/contrib/systemd/vined.service"
put_with_paths "$unitdir" "$here/contrib/systemd/vine-managerd.service"

for page in "$here"/man/*.[1-9]; do
    put 644 "$mandir/man${page##*.}" "$page"
done
for doc in README.md PARSL.md CHANGELOG.md LICENSE contrib/ROLLOUT.md; do
    [ ! -f "$here/$doc" ] || put 644 "$docdir" "$here/$doc"
done
put_with_paths "$docdir" "$here/contrib/vine-env.conf"
put 644 "$docdir/grafana" "$here/contrib/grafana/vine-env.json" "$here/contrib/grafana/README.md"
install -d -m 755 "$destdir$docdir/plugstack"
put_with_paths "$docdir/plugstack" "$here/contrib/plugstack/vine-env.conf"
put 644 "${mandir%/man}/bash-completion/completions" "$here/contrib/completion/vine-env"

if [ ! -e "$destdir$sysconfdir/vine-env/vine-env.conf" ]; then
    put_with_paths "$sysconfdir/vine-env" "$here/contrib/vine-env.conf"
fi
