import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for. */
class Handshakes {
    public static void main(String[] args) throws Exception {
        var in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null;) {
            var words = line.split(" ");
            System.out.println(attempt(words[0], Integer.parseInt(words[1]), words[3]));
        }
    }

    static String attempt(String host, int port, String file) {
        try (var pem = new FileInputStream(file)) {
            var store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null, null);
            var all = new ArrayList<Certificate>(CertificateFactory.getInstance("X.509").generateCertificates(pem));
            for (int i = 0; i < all.size(); i++) store.setCertificateEntry("ca" + i, all.get(i));
            var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            trust.init(store);
            var context = SSLContext.getInstance("TLS");
            context.init(null, trust.getTrustManagers(), null);
            try (var socket = (SSLSocket) context.getSocketFactory().createSocket(host, port)) {
                SSLParameters p = socket.getSSLParameters();
                p.setEndpointIdentificationAlgorithm("HTTPS"); // without it Java compares no name
                socket.setSSLParameters(p);
                socket.getOutputStream().write("PING\r\n".getBytes());
                var answer = new String(socket.getInputStream().readNBytes(7));
                return answer.equals("+PONG\r\n") ? "ok" : "no " + answer;
            }
        } catch (Exception e) {
            return "no " + e.toString().replace('\n', ' ');
        }
    }
}
