// mbedTLS 2.28, which compares the certificate with DNS names only.
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>

#include "handshakes.h"

static int attempt(int fd, const char *host, const char *name, const char *file, char *answer, int size, char why[256]) {
	(void)host;
	int e, n = -1;
	mbedtls_net_context net = {.fd = fd};
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	mbedtls_x509_crt cas;
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context random;
	mbedtls_ssl_init(&ssl);
	mbedtls_ssl_config_init(&config);
	mbedtls_x509_crt_init(&cas);
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);

	// A positive number says how many certificates of the file it could not read.
	if ((e = mbedtls_x509_crt_parse_file(&cas, file)) != 0) {
		snprintf(why, 256, "CA file: %d", e);
		goto end;
	}
	if ((e = mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0)) != 0 ||
	    (e = mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT)) != 0)
		goto failed;
	mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
	mbedtls_ssl_conf_ca_chain(&config, &cas, NULL);
	mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
	if ((e = mbedtls_ssl_setup(&ssl, &config)) != 0 || (e = mbedtls_ssl_set_hostname(&ssl, name)) != 0)
		goto failed;
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	if ((e = mbedtls_ssl_handshake(&ssl)) != 0)
		goto failed;
	mbedtls_ssl_write(&ssl, (const unsigned char *)"PING\r\n", 6);
	n = mbedtls_ssl_read(&ssl, (unsigned char *)answer, size);
	mbedtls_ssl_close_notify(&ssl);
	goto end;
failed:
	mbedtls_strerror(e, why, 256);
end:
	mbedtls_ssl_free(&ssl);
	mbedtls_ssl_config_free(&config);
	mbedtls_x509_crt_free(&cas);
	mbedtls_ctr_drbg_free(&random);
	mbedtls_entropy_free(&entropy);
	return n;
}

int main(int count, char **arguments) {
	(void)arguments;
	if (count > 1)
		puts(MBEDTLS_VERSION_STRING);
	else
		run_all();
}
