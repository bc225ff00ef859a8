#!/bin/sh
# wolfSSL refuses a server because its trust store has one CA more than is needed.
#
# Version: wolfSSL 5.5.4 of Debian 12 (5.7.2 of Debian 13 does the same).
# Behaviour: the server presents its certificate, which CA-2 has signed, and behind it CA-2's cross-certificate by CA-1, which
# has expired. A client that trusts CA-2 alone connects: the cross-certificate isn't needed. One that trusts CA-2 and CA-1, as
# is right while a CA is being replaced, fails with "ASN date error, current date after". OpenSSL connects.
# Why, as far as it shows: wolfSSL looks at all certificates of the chain, from the last one on, and not at the path that it needs. One whose issuer it
# doesn't know it passes over; one whose issuer it knows has to be valid, dates too.
# For whoever replaces CAs: stop presenting a cross-certificate before it expires, also where clients have the new CA for long.
#
# Output seen:
#   trusts CA-2: connected
#   trusts CA-2 and CA-1: ASN date error, current date after
#   OpenSSL, trusts CA-2 and CA-1: connected
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq libwolfssl-dev libwolfssl35 >/dev/null 2>&1
for deb in *.deb; do dpkg -x "$deb" root; done
lib=$(dirname "$(find "$dir/root" -name 'libwolfssl.so.*' | head -n 1)")

cat >client.c <<'C'
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

int main(int count, char **arguments) {
	wolfSSL_Init();
	if (count < 3)
		return puts(wolfSSL_lib_version()) < 0;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
		return 2;
	WOLFSSL_CTX *ctx = wolfSSL_CTX_new(wolfTLS_client_method());
	if (wolfSSL_CTX_load_verify_locations(ctx, arguments[2], NULL) != WOLFSSL_SUCCESS)
		return 2;
	wolfSSL_CTX_set_verify(ctx, WOLFSSL_VERIFY_PEER, NULL);
	WOLFSSL *ssl = wolfSSL_new(ctx);
	wolfSSL_check_domain_name(ssl, "localhost");
	wolfSSL_set_fd(ssl, fd);
	puts(wolfSSL_connect(ssl) == WOLFSSL_SUCCESS ? "connected" : wolfSSL_ERR_reason_error_string(wolfSSL_get_error(ssl, 0)));
	return 0;
}
C
cc -o client -isystem root/usr/include client.c -L"$lib" -Wl,-rpath="$lib" -lwolfssl
version=$(./client)
echo "wolfSSL $version"
case $version in 5.5.4) ;; *) echo "want wolfSSL 5.5.4 of Debian 12"; exit 2 ;; esac

cat >conf <<'O'
[ca]
default_ca = all
[all]
database = index
unique_subject = no
rand_serial = yes
new_certs_dir = .
default_md = sha256
policy = any
[any]
commonName = supplied
[isca]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[isleaf]
basicConstraints = CA:false
subjectAltName = DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
O
: >index
for name in ca1 ca2 leaf; do
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$name.key" -out "$name.csr" -subj "/CN=the name of $name" 2>/dev/null
done
sign() { # CSR OUT SECTION BEGIN END ISSUER...
	csr=$1 out=$2 section=$3 begin=$4 end=$5
	shift 5
	openssl ca -config conf -batch -notext -in "$csr" -out "$out" -extensions "$section" -startdate "$begin" -enddate "$end" "$@" 2>/dev/null
}
sign ca1.csr ca1.pem isca 20200101000000Z 20450101000000Z -selfsign -keyfile ca1.key
sign ca2.csr ca2.pem isca 20200101000000Z 20450101000000Z -selfsign -keyfile ca2.key
sign ca2.csr cross.pem isca 20200101000000Z 20210101000000Z -cert ca1.pem -keyfile ca1.key
sign leaf.csr leaf.pem isleaf 20200101000000Z 20450101000000Z -cert ca2.pem -keyfile ca2.key
cat ca2.pem ca1.pem >both.pem

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
openssl s_server -accept "127.0.0.1:$port" -cert leaf.pem -key leaf.key -cert_chain cross.pem -quiet >/dev/null 2>&1 &
pid=$!
for attempt in 1 2 3 4 5 6 7 8 9 10; do
	alone=$(./client "$port" ca2.pem) && break # 2: the server is not up yet
	sleep 0.2
done
both=$(./client "$port" both.pem)
if openssl s_client -connect "127.0.0.1:$port" -CAfile both.pem -no-CApath -no-CAstore -verify_return_error -verify_hostname localhost </dev/null >/dev/null 2>&1; then
	other=connected
else
	other=refused
fi
echo "trusts CA-2: $alone"
echo "trusts CA-2 and CA-1: $both"
echo "OpenSSL, trusts CA-2 and CA-1: $other"
case $alone/$both/$other in
connected/*date*/connected) ;;
*) echo "it has changed"; exit 1 ;;
esac
