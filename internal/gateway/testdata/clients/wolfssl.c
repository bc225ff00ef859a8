// wolfSSL, which can compare the certificate with an address.
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include "handshakes.h"

static int attempt(int fd, const char *host, const char *name, const char *file, char *answer, int size, char why[256]) {
	(void)name;
	int n = -1;
	WOLFSSL *ssl = NULL;
	WOLFSSL_CTX *ctx = wolfSSL_CTX_new(wolfTLS_client_method());
	int e = wolfSSL_CTX_load_verify_locations(ctx, file, NULL);
	if (e != WOLFSSL_SUCCESS) {
		snprintf(why, 256, "CA file: %s", wolfSSL_ERR_reason_error_string(e));
		goto end;
	}
	// Debian builds it with OpenSSL's defaults: without this it verifies nothing.
	wolfSSL_CTX_set_verify(ctx, WOLFSSL_VERIFY_PEER, NULL);
	ssl = wolfSSL_new(ctx);
	wolfSSL_check_domain_name(ssl, host);
	wolfSSL_set_fd(ssl, fd);
	if (wolfSSL_connect(ssl) != WOLFSSL_SUCCESS) {
		snprintf(why, 256, "%s", wolfSSL_ERR_reason_error_string(wolfSSL_get_error(ssl, 0)));
		goto end;
	}
	wolfSSL_write(ssl, "PING\r\n", 6);
	n = wolfSSL_read(ssl, answer, size);
	wolfSSL_shutdown(ssl);
end:
	wolfSSL_free(ssl);
	wolfSSL_CTX_free(ctx);
	return n;
}

int main(int count, char **arguments) {
	(void)arguments;
	wolfSSL_Init();
	if (count > 1)
		puts(wolfSSL_lib_version());
	else
		run_all();
}
