#!/bin/sh
# need.sh [--optional] PROGRAM...: installs the programs that are missing, and says so. On Debian and Ubuntu it uses
# apt-get. On other systems it names the packages to install. With --optional a program that can't be installed is no
# error.
set -eu

# failed ends this script when programs are missing.
failed() {
	[ -z "$optional" ] || {
		echo "NOT TESTED WITH:$missing" >&2
		exit 0
	}
	exit 1
}

optional=
[ "${1:-}" != --optional ] || {
	optional=yes
	shift
}

package() {
	case "$1" in
	redis-cli | redis-benchmark) echo redis-tools ;;
	node) echo nodejs ;;
	javac) echo default-jdk-headless ;;
	php) echo php-cli ;;
	ss | ip | tc) echo iproute2 ;;
	gnutls-cli) echo gnutls-bin ;;
	tstclnt) echo libnss3-tools ;;
	setpriv) echo util-linux ;;
	protoc) echo protobuf-compiler ;;
	escript) echo erlang-base erlang-ssl ;;
	perl-ssl) echo libio-socket-ssl-perl ;;
	wolfssl) echo libwolfssl-dev ;;
	mbedtls) echo libmbedtls-dev ;;
	bearssl) echo libbearssl-dev ;;
	*) echo "$1" ;;
	esac
}

have() {
	command -v "$1" >/dev/null 2>&1 && return
	# Valkey's program serves as well as Redis's.
	case "$1" in
	redis-server) command -v valkey-server >/dev/null 2>&1 ;;
	redis-cli) command -v valkey-cli >/dev/null 2>&1 ;;
	# Modules of Python, either of the first python3 in PATH or of the system's.
	python3-redis) python3 -c 'import redis' >/dev/null 2>&1 || /usr/bin/python3 -c 'import redis' >/dev/null 2>&1 ;;
	python3-googleapi) python3 -c 'import googleapiclient' >/dev/null 2>&1 || /usr/bin/python3 -c 'import googleapiclient' >/dev/null 2>&1 ;;
	# Libraries of PHP.
	php-redis) php -r 'exit(class_exists("Redis") ? 0 : 1);' >/dev/null 2>&1 ;;
	php-predis) php -r 'exit((@include "Predis/autoload.php") ? 0 : 1);' >/dev/null 2>&1 ;;
	perl-ssl) perl -MIO::Socket::SSL -e 1 >/dev/null 2>&1 ;;
	# Libraries of C.
	wolfssl) has_header wolfssl/ssl.h ;;
	mbedtls) has_header mbedtls/ssl.h ;;
	bearssl) has_header bearssl.h ;;
	*) return 1 ;;
	esac
}

has_header() {
	echo "#include <$1>" | gcc -E - >/dev/null 2>&1
}

missing=
for program in "$@"; do
	have "$program" || missing="$missing $(package "$program")"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "These packages are needed, by whatever name this system has for them:$missing" >&2
	echo "Install them and run make again." >&2
	failed
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null 2>&1 || {
		echo "Run as root, then make again: apt-get install -y$missing" >&2
		failed
	}
	as_root=sudo
fi
echo "installing$missing (apt-get)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1
}
if ! { $as_root apt-get update >"$log" 2>&1 && install $missing; }; then
	# If this release lacks one package, the others are still installed.
	if [ -n "$optional" ]; then
		all=$missing missing=
		for package in $all; do
			install "$package" || missing="$missing $package"
		done
		[ -n "$missing" ] || exit 0
	fi
	cat "$log" >&2
	echo "apt-get failed; install by hand:$missing" >&2
	failed
fi
case "$missing" in
*redis-server*)
	if [ -d /run/systemd/system ]; then
		echo "Debian has started a Redis of its own, unencrypted on 127.0.0.1:6379. Sealane doesn't use it; to turn it off:"
		echo "  sudo systemctl disable --now redis-server"
	fi
	;;
esac
