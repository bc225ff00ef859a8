package doctor_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/doctor"
)

// Whoever prints, logs or encodes a Config, or a part of it, does not show the password.
func TestAPasswordIsNeverPrinted(t *testing.T) {
	t.Parallel()
	c := doctor.Config{Host: "redis.example.com", Password: doctor.NewPassword(password, "from SEALANE_AUTH")}
	var out bytes.Buffer
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, format+format, c, &c)
		fmt.Fprintf(&out, format+format, c.Password, &c.Password)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "config", c, "password", c.Password)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("JSON", "password", c.Password, "holder", struct{ P doctor.Password }{c.Password})
	if err := json.NewEncoder(&out).Encode(c.Password); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{password, fmt.Sprintf("%x", password)} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the password is in %s", out.String())
		}
	}
	if !strings.Contains(out.String(), "from SEALANE_AUTH") {
		t.Errorf("where it comes from is not in %s", out.String())
	}
}
