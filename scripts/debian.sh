#!/bin/sh
# debian.sh [-u] SUITE PACKAGE[=VERSION]...: unpacks packages of another Debian release, each with the libraries that it
# needs, and prints the folder of each. It needs no root and leaves the machine unchanged: apt gets a configuration, lists
# and a status file of its own, and nothing is installed. It uses the mirror and the keyring of the machine's own sources.
#
# A package's folder has a wrapper for each of its programs. The wrapper starts the program with the loader and the
# libraries of its own release. A package that is unpacked already is kept, and the network is not asked. With -u the newest
# version replaces it.
set -eu

cache=${SEALANE_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/sealane/engines}

fail() {
	echo "$*" >&2
	exit 1
}

# mirror prints the address of the machine's Debian mirror, and the file of sources that names it.
mirror() {
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI) $(SOURCESENTRY)' 'Created-By: Packages' |
		awk -v own="$VERSION_CODENAME" '$1 == "Debian" && $2 == own { sub(/:[0-9]+$/, "", $4); print $3, $4; exit }'
}

# keyring prints the first keyring that a file of sources names. If there is none, apt uses those that the machine trusts.
keyring() {
	sed -n 's|^[Ss]igned-[Bb]y: *\(/[^ ,]*\).*|\1|p; s|.*signed-by=\(/[^] ,]*\).*|\1|p' "$1" | head -n 1
}

# apt_files makes apt's files for a suite in a folder. They include the machine's own configuration, because it may have
# proxies, but clear its commands that run after an update.
apt_files() {
	found=$(mirror)
	[ -n "$found" ] || fail "no source of Debian $VERSION_CODENAME in the machine's apt configuration, or apt-get update never ran"
	address=${found% *}
	key=$(keyring "${found##* }")
	mkdir -p "$2/lists/partial" "$2/cache/archives/partial"
	: >"$2/status"
	echo "deb ${key:+[signed-by=$key] }$address $1 main" >"$2/sources.list"
	echo "Dir::Etc::Main \"$2/apt.conf\";" >"$2/first.conf"
	{
		[ ! -f /etc/apt/apt.conf ] || echo '#include "/etc/apt/apt.conf";'
		cat <<CONF
#clear APT::Update;
#clear DPkg;
Dir::State "$2";
Dir::State::Lists "$2/lists";
Dir::State::status "$2/status";
Dir::Cache "$2/cache";
Dir::Etc::SourceList "$2/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "0";
APT::Get::List-Cleanup "0";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "15";
Acquire::https::Timeout "15";
CONF
	} >"$2/apt.conf"
}

# apt runs apt-get with the files of apt_files. It shows the output only when apt-get fails.
apt() {
	APT_CONFIG="$work/apt/first.conf" timeout 300 apt-get -q "$@" >"$work/said" 2>&1 || fail "apt-get $1: $(tail -n 3 "$work/said")"
}

# needed prints the package and what it needs to run: libraries and its own tools, but not packages that configure a system.
needed() {
	APT_CONFIG="$work/apt/first.conf" apt-get -qq --print-uris install "$1" |
		sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" |
		grep -E "^(lib|zlib|lua-|${name%%-*})" | grep -vE '^lib(pam|semanage|sepol|audit|debconf)|-common$|-perl$' || true
}

# wrap makes a wrapper for each program below a folder's root/.
wrap() {
	(
		cd "$1"
		loader=$(find root -name 'ld-linux*.so.*' ! -type l | head -n 1)
		[ -n "$loader" ] || fail "no loader in the packages"
		for program in root/usr/bin/* root/usr/sbin/*; do
			head -c 4 "$program" 2>/dev/null | grep -q ELF || continue
			cat >"${program##*/}" <<WRAPPER
#!/bin/sh
here=\${0%/*}
exec "\$here/$loader" --argv0 "\$0" --library-path "\$here/${loader%/*}" "\$here/$program" "\$@"
WRAPPER
			chmod 755 "${program##*/}"
		done
	)
}

# unpack makes a package's folder, either completely or not at all.
unpack() {
	name=${1%%=*}
	new=$work/$name
	mkdir -p "$new/root" "$work/debs"
	packages=$(needed "$1")
	[ -n "$packages" ] || fail "$suite has no package $1"
	(cd "$work/debs" && apt download $(echo "$packages" | sed "s/^$name\$/$1/"))
	for package in $packages; do
		for deb in "$work/debs/$package"_*.deb; do
			dpkg -x "$deb" "$new/root"
		done
	done
	version=$(dpkg-deb -f "$work/debs/$name"_*.deb Version)
	rm -rf "$new/root/usr/share" "$new/root/etc" "$new/root/var"
	wrap "$new"
	mkdir -p "$cache/$suite"
	[ ! -e "$cache/$suite/$name" ] || mv "$cache/$suite/$name" "$work/old-$name"
	mv "$new" "$cache/$suite/$name"
	echo "unpacked $name $version of Debian $suite in $cache/$suite/$name ($(du -sh "$cache/$suite/$name" | cut -f 1))" >&2
}

update=
[ "${1:-}" != -u ] || {
	update=yes
	shift
}
[ $# -ge 2 ] || fail "usage: debian.sh [-u] SUITE PACKAGE[=VERSION]..."
suite=$1
shift

all=yes
for package in "$@"; do
	[ -z "$update" ] && [ -d "$cache/$suite/${package%%=*}" ] || all=
done
if [ -z "$all" ]; then
	ID= VERSION_CODENAME=
	[ ! -f /etc/os-release ] || . /etc/os-release
	[ "$ID" = debian ] || fail "this is ${ID:-no known system}, and packages of Debian are fetched on Debian only"
	mkdir -p "$cache"
	exec 9>"$cache/.lock"
	flock 9                # otherwise two runs would both fetch the same
	rm -rf "$cache"/.new.* # left behind by a run that was killed
	work=$(mktemp -d "$cache/.new.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	apt_files "$suite" "$work/apt"
	apt update -o APT::Update::Error-Mode=any
	for package in "$@"; do
		[ -z "$update" ] && [ -d "$cache/$suite/${package%%=*}" ] || unpack "$package"
	done
fi
for package in "$@"; do
	echo "$cache/$suite/${package%%=*}"
done
