<?php
// This measures how long PHP's streams take from connecting to the first reply, with a verified server. It prints one line with the
// milliseconds for each connection.
[, $host, $port, $ca, $count] = $argv;
for ($i = 0; $i < $count; $i++) {
    $start = hrtime(true);
    $context = stream_context_create(['ssl' => ['cafile' => $ca, 'peer_name' => $host]]);
    $conn = stream_socket_client("tls://$host:$port", $code, $message, 10, STREAM_CLIENT_CONNECT, $context);
    if (!$conn) {
        fwrite(STDERR, "connect: $message\n");
        exit(1);
    }
    fwrite($conn, "PING\r\n");
    $reply = fgets($conn);
    $took = hrtime(true) - $start;
    fclose($conn);
    if ($reply !== "+PONG\r\n") {
        fwrite(STDERR, 'the reply was ' . var_export($reply, true) . "\n");
        exit(1);
    }
    printf("%.3f\n", $took / 1e6);
}
