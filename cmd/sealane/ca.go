package main

import (
	"fmt"
	"io"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"
)

func newCA(e *env) *cobra.Command {
	return group("ca", "Show the certificate authorities of an instance", "  sealane ca bundle first > ca.pem",
		newCAList(e), newCABundle(e))
}

// encrypted returns an instance, or an error when it has no CA to show.
func encrypted(c *cobra.Command, e *env, p parentFlags, id string) (*redispb.Instance, []byte, error) {
	api, err := newClient(e)
	if err != nil {
		return nil, nil, err
	}
	i, raw, err := api.instance(c.Context(), p.instance(id))
	if err != nil {
		return nil, nil, err
	}
	switch {
	case i.GetTransitEncryptionMode() != redispb.Instance_SERVER_AUTHENTICATION:
		return nil, nil, withHint(fmt.Errorf("instance %s has no CA: its transit encryption is disabled", id),
			"encryption is chosen when an instance is created: --transit-encryption-mode server_authentication")
	case len(i.GetServerCaCerts()) == 0:
		return nil, nil, withHint(fmt.Errorf("instance %s has no CA yet: it is %s", id, i.GetState()), "wait until `sealane instances describe %s` says READY", id)
	}
	return i, raw, nil
}

func newCAList(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "list NAME", Short: "List the CAs that clients should trust", Args: exactly("NAME"),
		Example: "  sealane ca list first",
		RunE: func(c *cobra.Command, args []string) error {
			i, raw, err := encrypted(c, e, parent, args[0])
			if err != nil {
				return err
			}
			return format.print(e.out, raw, func(w io.Writer) {
				row(w, "CA", "CREATED", "EXPIRES", "SERIAL", "SHA1_FINGERPRINT")
				for n, ca := range i.GetServerCaCerts() {
					row(w, fmt.Sprintf("CA-%d", n+1), ca.GetCreateTime().AsTime().Format(time.RFC3339),
						ca.GetExpireTime().AsTime().Format(time.RFC3339), ca.GetSerialNumber(), ca.GetSha1Fingerprint())
				}
			})
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func newCABundle(e *env) *cobra.Command {
	var parent parentFlags
	c := &cobra.Command{
		Use: "bundle NAME", Short: "Print the CA certificates that clients should trust, as PEM", Args: exactly("NAME"),
		Example: "  sealane ca bundle first > ca.pem",
		RunE: func(c *cobra.Command, args []string) error {
			i, _, err := encrypted(c, e, parent, args[0])
			if err != nil {
				return err
			}
			_, err = e.out.Write(bundleOf(i))
			return err
		},
	}
	parent.add(c)
	return c
}

// bundleOf is all CA certificates of an instance: never only the first.
func bundleOf(i *redispb.Instance) []byte {
	var out []byte
	for _, ca := range i.GetServerCaCerts() {
		out = append(out, ca.GetCert()...)
	}
	return out
}
