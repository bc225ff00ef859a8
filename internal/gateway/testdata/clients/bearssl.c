// BearSSL, which speaks TLS 1.2 at most and compares the certificate with DNS names only.
#include <bearssl.h>
#include <stdlib.h>

#include "handshakes.h"

struct bytes {
	unsigned char *data;
	size_t size;
};

static void append(void *to, const void *data, size_t size) {
	struct bytes *b = to;
	b->data = realloc(b->data, b->size + size);
	memcpy(b->data + b->size, data, size);
	b->size += size;
}

// anchor makes one of a certificate. What it points to is never given back: this program ends soon.
static int anchor(struct bytes der, br_x509_trust_anchor *out) {
	struct bytes subject = {0}, key = {0}, exponent = {0};
	br_x509_decoder_context d;
	br_x509_decoder_init(&d, append, &subject);
	br_x509_decoder_push(&d, der.data, der.size);
	br_x509_pkey *k = br_x509_decoder_get_pkey(&d);
	if (k == NULL)
		return 0;
	out->dn.data = subject.data;
	out->dn.len = subject.size;
	out->flags = br_x509_decoder_isCA(&d) ? BR_X509_TA_CA : 0;
	out->pkey = *k;
	if (k->key_type == BR_KEYTYPE_RSA) {
		append(&key, k->key.rsa.n, k->key.rsa.nlen);
		append(&exponent, k->key.rsa.e, k->key.rsa.elen);
		out->pkey.key.rsa.n = key.data;
		out->pkey.key.rsa.e = exponent.data;
	} else {
		append(&key, k->key.ec.q, k->key.ec.qlen);
		out->pkey.key.ec.q = key.data;
	}
	return 1;
}

// anchors reads a PEM file and returns how many certificates are in it.
static int anchors(const char *file, br_x509_trust_anchor *out, int max) {
	static char text[64 << 10];
	FILE *f = fopen(file, "r");
	size_t size = f == NULL ? 0 : fread(text, 1, sizeof text, f), done = 0;
	if (f != NULL)
		fclose(f);
	br_pem_decoder_context d;
	struct bytes der = {0};
	int n = 0;
	br_pem_decoder_init(&d);
	while (done < size) {
		done += br_pem_decoder_push(&d, text + done, size - done);
		switch (br_pem_decoder_event(&d)) {
		case BR_PEM_BEGIN_OBJ:
			der = (struct bytes){0};
			br_pem_decoder_setdest(&d, append, &der);
			break;
		case BR_PEM_END_OBJ:
			if (n == max || !anchor(der, &out[n++]))
				return -1;
			free(der.data);
			break;
		case BR_PEM_ERROR:
			return -1;
		}
	}
	return n;
}

static int receive(void *fd, unsigned char *to, size_t size) {
	ssize_t n = read(*(int *)fd, to, size);
	return n <= 0 ? -1 : (int)n;
}

static int transmit(void *fd, const unsigned char *from, size_t size) {
	ssize_t n = write(*(int *)fd, from, size);
	return n <= 0 ? -1 : (int)n;
}

static int attempt(int fd, const char *host, const char *name, const char *file, char *answer, int size, char why[256]) {
	(void)host;
	(void)size;
	static unsigned char buffer[BR_SSL_BUFSIZE_BIDI];
	br_x509_trust_anchor trusted[4];
	int count = anchors(file, trusted, 4);
	if (count < 1) {
		snprintf(why, 256, "CA file");
		return -1;
	}
	br_ssl_client_context client;
	br_x509_minimal_context x509;
	br_sslio_context io;
	br_ssl_client_init_full(&client, &x509, trusted, count);
	br_ssl_engine_set_buffer(&client.eng, buffer, sizeof buffer, 1);
	br_ssl_client_reset(&client, name, 0);
	br_sslio_init(&io, &client.eng, receive, &fd, transmit, &fd);
	if (br_sslio_write_all(&io, "PING\r\n", 6) != 0 || br_sslio_flush(&io) != 0 || br_sslio_read_all(&io, answer, 7) != 0) {
		snprintf(why, 256, "error %d", br_ssl_engine_last_error(&client.eng));
		return -1;
	}
	br_sslio_close(&io);
	return 7;
}

int main(void) { run_all(); }
