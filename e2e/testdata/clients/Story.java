import java.io.*;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.*;
import java.util.*;
import java.util.concurrent.*;
import javax.net.ssl.*;

// Debian has no Redis client for Java, so this program speaks RESP itself. TLS and trust are Java's own. It prints "ok WHAT" after
// each step. When it prints "ready to lose the engine", the test kills the engine and writes a line to its stdin.
class Story {
    // Without CA there is no TLS, because the story runs through a sidecar.
    static final boolean secure = !System.getenv("CA").isEmpty();

    static SSLContext trusting(boolean instance) throws Exception {
        if (!secure) return null;
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        if (instance) {
            try (InputStream in = Files.newInputStream(Path.of(System.getenv("CA")))) {
                int n = 0;
                for (java.security.cert.Certificate c : CertificateFactory.getInstance("X.509").generateCertificates(in)) store.setCertificateEntry("ca" + n++, c);
            }
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(instance ? store : null);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    static class Client implements Closeable {
        final Socket socket;
        final DataInputStream in;
        final OutputStream out;

        Client(SSLContext context) throws Exception {
            String host = System.getenv("HOST");
            int port = Integer.parseInt(System.getenv("PORT"));
            socket = secure ? context.getSocketFactory().createSocket(host, port) : new Socket(host, port);
            socket.setSoTimeout(20_000);
            if (socket instanceof SSLSocket tls) {
                SSLParameters p = tls.getSSLParameters();
                p.setEndpointIdentificationAlgorithm("HTTPS"); // the name is verified, too
                tls.setSSLParameters(p);
                tls.startHandshake();
            }
            in = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
            out = new BufferedOutputStream(socket.getOutputStream());
            String auth = System.getenv("AUTH");
            Object hello = auth.isEmpty() ? call("HELLO", "3") : call("HELLO", "3", "AUTH", "default", auth);
            if (!(hello instanceof Map)) throw new IOException("HELLO 3: " + hello);
        }

        void send(String... words) throws IOException {
            StringBuilder b = new StringBuilder("*" + words.length + "\r\n");
            for (String w : words) b.append("$" + w.getBytes(StandardCharsets.UTF_8).length + "\r\n" + w + "\r\n");
            out.write(b.toString().getBytes(StandardCharsets.UTF_8));
        }

        Object call(String... words) throws IOException {
            send(words);
            return read();
        }

        Object read() throws IOException {
            out.flush();
            int type = in.read();
            if (type < 0) throw new EOFException();
            ByteArrayOutputStream b = new ByteArrayOutputStream();
            for (int c; (c = in.readUnsignedByte()) != '\r';) b.write(c);
            in.readByte();
            String head = b.toString(StandardCharsets.UTF_8);
            switch (type) {
            case '+': return head;
            case '-': return new IOException(head);
            case ':': return Long.parseLong(head);
            case '_': return null;
            case '$':
                byte[] value = new byte[Integer.parseInt(head)];
                in.readFully(value);
                in.readShort();
                return new String(value, StandardCharsets.UTF_8);
            case '*': case '>': case '~':
                List<Object> list = new ArrayList<>();
                for (int n = Integer.parseInt(head); n > 0; n--) list.add(read());
                return list;
            case '%':
                Map<Object, Object> map = new HashMap<>();
                for (int n = Integer.parseInt(head); n > 0; n--) map.put(read(), read());
                return map;
            default: throw new IOException("type " + (char) type);
            }
        }

        public void close() throws IOException { socket.close(); }
    }

    static void want(Object got, Object want) {
        if (!Objects.equals(got, want)) throw new AssertionError("got " + got + ", want " + want);
    }

    static void ok(String what) { System.out.println("ok " + what); }

    public static void main(String[] args) throws Exception {
        SSLContext context = trusting(true);
        Client db = new Client(context), other = new Client(context);
        want(db.call("SET", "key", "value"), "OK");
        want(db.call("GET", "key"), "value");
        ok("get and set");
        for (int i = 0; i < 1000; i++) db.send("INCR", "n");
        for (long i = 1; i <= 1000; i++) want(db.read(), i);
        ok("pipeline");
        want(db.call("WATCH", "w"), "OK");
        other.call("SET", "w", "changed");
        want(db.call("MULTI"), "OK");
        want(db.call("SET", "w", "mine"), "QUEUED");
        want(db.call("EXEC"), null);
        db.call("MULTI");
        db.call("INCR", "m");
        want(db.call("EXEC"), List.of(1L));
        ok("transaction");
        db.send("BLPOP", "list", "10");
        db.out.flush();
        other.call("RPUSH", "list", "item");
        want(db.read(), List.of("list", "item"));
        ok("blocking pop");
        Client sub = new Client(context);
        want(sub.call("SUBSCRIBE", "news"), List.of("subscribe", "news", 1L));
        want(db.call("PUBLISH", "news", "hello"), 1L);
        want(sub.read(), List.of("message", "news", "hello"));
        ok("publish and subscribe");
        want(db.call("EVAL", "return redis.call('GET', KEYS[1])", "1", "key"), "value");
        ok("script");
        List<?> scan = (List<?>) db.call("SCAN", "0", "COUNT", "1000");
        want(((List<?>) scan.get(1)).contains("key"), true);
        ok("scan");
        ExecutorService pool = Executors.newFixedThreadPool(50);
        List<Future<?>> all = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            String n = String.valueOf(i);
            all.add(pool.submit(() -> {
                try (Client c = new Client(context)) {
                    c.call("SET", "c" + n, n);
                    want(c.call("GET", "c" + n), n);
                }
                return null;
            }));
        }
        for (Future<?> f : all) f.get();
        pool.shutdown();
        ok("fifty connections");
        if (secure) {
            try {
                new Client(trusting(false));
                throw new AssertionError("connected without the CA");
            } catch (SSLException expected) {
                ok("no connection without the CA");
            }
        }
        System.out.println("ready to lose the engine");
        System.in.read();
        long end = System.nanoTime() + 10_000_000_000L;
        for (;;) {
            try (Client c = new Client(context)) {
                want(c.call("SET", "after", "yes"), "OK");
                break;
            } catch (IOException e) {
                if (System.nanoTime() > end) throw e;
                Thread.sleep(50);
            }
        }
        ok("reconnect");
    }
}
