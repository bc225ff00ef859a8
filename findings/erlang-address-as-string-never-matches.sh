#!/bin/sh
# In Erlang ssl:connect("127.0.0.1", …) refuses a certificate for 127.0.0.1; ssl:connect({127,0,0,1}, …) accepts it.
#
# Version: Erlang/OTP 25 of Debian 12 (ssl 10.8.7, public_key 1.13.2).
# Behaviour: a host that is a string is connected to as any address is, but it is compared with the DNS names of the certificate
# only, even if it is an address: {bad_cert,hostname_check_failed}. The certificate's IP addresses count for a host that is a
# tuple only. Nothing else tells the two calls apart, and without verification both work. Programs that take the host from a URL or a
# configuration have a string.
# For whoever gives out certificates for addresses: clients on the BEAM need inet:parse_address first, or a DNS name.
#
# Output seen:
#   "127.0.0.1": hostname_check_failed
#   {127,0,0,1}: connected
#   "127.0.0.1", not verified: connected
#   "127.0.0.1", certificate with the DNS name 127.0.0.1: connected
set -eu
dir=$(mktemp -d)
pids=
trap 'for pid in $pids; do kill "$pid"; wait "$pid" || true; done 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq erlang-base erlang-ssl erlang-public-key erlang-crypto erlang-asn1 >/dev/null 2>&1
for deb in *.deb; do dpkg -x "$deb" root; done

key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $key -keyout ca.key -out ca.pem -days 2 -subj "/CN=a CA" 2>/dev/null
certificate() { # NAME SAN
	openssl req $key -keyout "$1.key" -out "$1.csr" -subj "/CN=a server" 2>/dev/null
	echo "subjectAltName=$2" >"$1.ext"
	openssl x509 -req -in "$1.csr" -out "$1.pem" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" 2>/dev/null
}
certificate address IP:127.0.0.1
certificate name DNS:127.0.0.1
ports=
for name in address name; do
	port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	openssl s_server -accept "127.0.0.1:$port" -cert "$name.pem" -key "$name.key" -www -quiet >/dev/null 2>&1 &
	pids="$pids $!" ports="$ports $port"
done
cat >client.escript <<'C'
#!/usr/bin/env escript
main([Version, A, N]) ->
    {ok, _} = application:ensure_all_started(ssl),
    logger:set_primary_config(level, none),
    {ok, Ssl} = application:get_key(ssl, vsn),
    io:format("OTP ~s, ssl ~s~n", [erlang:system_info(otp_release), Ssl]),
    Version = erlang:system_info(otp_release),
    Verify = [{verify, verify_peer}],
    Address = list_to_integer(A),
    Name = list_to_integer(N),
    Got = [show("\"127.0.0.1\"", "127.0.0.1", Address, Verify),
           show("{127,0,0,1}", {127,0,0,1}, Address, Verify),
           show("\"127.0.0.1\", not verified", "127.0.0.1", Address, [{verify, verify_none}]),
           show("\"127.0.0.1\", certificate with the DNS name 127.0.0.1", "127.0.0.1", Name, Verify)],
    Got =:= [hostname_check_failed, connected, connected, connected] orelse
        begin io:format("it has changed~n"), halt(1) end.

show(Label, Host, Port, Options) ->
    Got = attempt(Host, Port, Options, 50),
    io:format("~s: ~p~n", [Label, Got]),
    Got.

attempt(Host, Port, Options, Tries) ->
    case ssl:connect(Host, Port, [{cacertfile, "ca.pem"} | Options], 10000) of
        {ok, S} -> ssl:close(S), connected;
        {error, econnrefused} when Tries > 0 -> timer:sleep(100), attempt(Host, Port, Options, Tries - 1);
        {error, Reason} ->
            Text = lists:flatten(io_lib:format("~p", [Reason])),
            case string:find(Text, "hostname_check_failed") of
                nomatch -> Reason;
                _ -> hostname_check_failed
            end
    end.
C
export ERL_ROOTDIR="$dir/root/usr/lib/erlang"
"$ERL_ROOTDIR/bin/escript" client.escript 25 $ports
