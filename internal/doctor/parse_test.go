package doctor_test

import (
	"encoding/pem"
	"testing"

	"github.com/sealane/sealane/internal/doctor"
)

// FuzzReplies: any bytes of a server, cut anywhere, give the same two replies or none.
func FuzzReplies(f *testing.F) {
	f.Add([]byte("+PONG\r\n*2\r\n$10\r\n1796126400\r\n$1\r\n0\r\n"), 9)
	f.Add([]byte("-NOAUTH Authentication required.\r\n-NOAUTH Authentication required.\r\n"), 40)
	f.Add([]byte("-ERR max number of clients reached\r\n"), 3)
	f.Add([]byte("*2\r\n$-1\r\n:99999999999999999\r\n"), 7)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		n, complete, isTime, err := doctor.RepliesForTest(b)
		if complete != (n == 2) || isTime && !complete || complete && err != nil {
			t.Errorf("%q: %d replies, complete %v, time %v, %v", b, n, complete, isTime, err)
		}
		if cut < 0 || cut >= len(b) {
			return
		}
		if early, done, _, earlyErr := doctor.RepliesForTest(b[:cut]); early > n || done && !complete || earlyErr != nil && err == nil {
			t.Errorf("%q: %d replies in the first %d bytes, %d in all; %v, %v", b, early, cut, n, earlyErr, err)
		}
	})
}

// FuzzReadCAs: a bundle is read as a whole or refused with a reason.
func FuzzReadCAs(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}}))
	f.Add([]byte("garbage"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, kind := doctor.ReadCAsForTest(b)
		if (n > 0) == (kind != "") {
			t.Errorf("%q: %d CAs, %v", b, n, kind)
		}
	})
}
