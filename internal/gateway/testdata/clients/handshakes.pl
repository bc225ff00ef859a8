# Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
use strict;
use warnings;
use IO::Socket::SSL;

$| = 1;
while (my $line = <STDIN>) {
    my ($host, $port, $name, $file) = split ' ', $line;
    # By default it verifies the chain and compares the certificate with the host.
    my $tls = IO::Socket::SSL->new(PeerHost => $host, PeerPort => $port, SSL_ca_file => $file);
    if (!$tls) {
        print "no $SSL_ERROR\n";
        next;
    }
    print $tls "PING\r\n";
    my $answer = <$tls> // 'nothing';
    print $answer eq "+PONG\r\n" ? "ok\n" : "no $answer\n";
    close $tls;
}
