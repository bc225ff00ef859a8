# Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
require "openssl"
require "socket"

$stdout.sync = true
STDIN.each_line do |line|
  host, port, _name, file = line.split
  begin
    context = OpenSSL::SSL::SSLContext.new
    context.set_params(ca_file: file) # verifies the peer
    TCPSocket.open(host, port) do |raw|
      tls = OpenSSL::SSL::SSLSocket.new(raw, context)
      tls.connect
      tls.post_connection_check(host)
      tls.write("PING\r\n")
      answer = tls.gets("\r\n")
      puts answer == "+PONG\r\n" ? "ok" : "no #{answer.inspect}"
    end
  rescue SystemCallError, OpenSSL::SSL::SSLError => e
    puts "no #{e.message.tr("\n", " ")}"
  end
end
