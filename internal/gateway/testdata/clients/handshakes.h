// What the clients in C have in common: they read "host port name file" lines; for each they say whether PING is answered
// by a server that the file's CAs vouch for.
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// attempt makes a handshake on fd, sends PING and returns how many bytes of the answer it has put into answer, or -1.
// It puts the reason of a failure into why.
static int attempt(int fd, const char *host, const char *name, const char *file, char *answer, int size, char why[256]);

static int dial(const char *host, const char *port) {
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
	if (getaddrinfo(host, port, &hints, &found) != 0)
		return -1;
	int fd = socket(found->ai_family, found->ai_socktype, 0);
	if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
		close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

static void run_all(void) {
	char host[64], port[8], name[64], file[512];
	while (scanf("%63s %7s %63s %511s", host, port, name, file) == 4) {
		char answer[64], why[256] = "";
		int fd = dial(host, port);
		if (fd < 0) {
			puts("no connection");
			continue;
		}
		int n = attempt(fd, host, name, file, answer, sizeof answer, why);
		if (n == 7 && memcmp(answer, "+PONG\r\n", 7) == 0)
			puts("ok");
		else
			printf("no %s\n", n < 0 ? why : "PONG");
		close(fd);
	}
}
