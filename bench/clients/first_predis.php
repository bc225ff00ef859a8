<?php
// This measures how long Predis takes from connecting to the first reply, with a verified server. It prints one line with the
// milliseconds for each connection.
require 'Predis/autoload.php';
[, $host, $port, $ca, $count] = $argv;
for ($i = 0; $i < $count; $i++) {
    $start = hrtime(true);
    $client = new Predis\Client(['scheme' => 'tls', 'host' => $host, 'port' => (int) $port, 'ssl' => ['cafile' => $ca, 'peer_name' => $host]]);
    $client->ping();
    $took = hrtime(true) - $start;
    $client->disconnect();
    printf("%.3f\n", $took / 1e6);
}
