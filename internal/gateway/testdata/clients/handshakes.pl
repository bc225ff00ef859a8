# Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
use strict;
use warnings;
use IO::Socket::SSL;

$| = 1;
while (my $line = <STDIN>) {
    my ($host, $port, $name, $file) = split ' ', $line;
    # The scheme says how the certificate is compared with the host; without one it would only be warned about.
    my $tls = IO::Socket::SSL->new(
        PeerHost => $host, PeerPort => $port, SSL_ca_file => $file,
        SSL_verify_mode => SSL_VERIFY_PEER, SSL_verifycn_scheme => 'default',
    );
    if (!$tls) {
        print "no $SSL_ERROR\n";
        next;
    }
    print $tls "PING\r\n";
    my $answer = <$tls> // 'nothing';
    print $answer eq "+PONG\r\n" ? "ok\n" : "no $answer\n";
    close $tls;
}
