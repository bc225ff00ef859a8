<?php
// Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
foreach (file('php://stdin', FILE_IGNORE_NEW_LINES) as $line) {
    [$host, $port, , $file] = explode(' ', $line);
    $context = stream_context_create(['ssl' => ['cafile' => $file]]); // verify_peer and verify_peer_name are on
    error_clear_last();
    $tls = @stream_socket_client("tls://$host:$port", $number, $text, 30, STREAM_CLIENT_CONNECT, $context);
    if (!$tls) {
        echo 'no ', strtr("$text " . (error_get_last()['message'] ?? ''), "\r\n", '  '), "\n";
        continue;
    }
    fwrite($tls, "PING\r\n");
    $answer = fgets($tls);
    echo $answer === "+PONG\r\n" ? "ok\n" : 'no ' . var_export($answer, true) . "\n";
    fclose($tls);
}
