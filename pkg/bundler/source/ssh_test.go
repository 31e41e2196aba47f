package source_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

// newKey returns a key and the file that holds it.
func newKey(t *testing.T, passphrase string) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer, file
}

// startSSH serves git-upload-pack to whoever has the client's key, and returns its address and its host key.
func startSSH(t *testing.T, client ssh.PublicKey) (string, ssh.PublicKey) {
	t.Helper()
	host, _ := newKey(t, "")
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(client.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		wait.Wait()
	})
	wait.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { serveSSH(connection, config) })
		}
	})
	return listener.Addr().String(), host.PublicKey()
}

func serveSSH(connection net.Conn, config *ssh.ServerConfig) {
	server, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		_ = connection.Close()
		return
	}
	defer func() { _ = server.Close() }()
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		for request := range requests {
			if request.Type != "exec" {
				_ = request.Reply(false, nil)
				continue
			}
			_ = request.Reply(true, nil)
			// The payload is a length and: git-upload-pack '/path'.
			path := strings.Trim(strings.TrimPrefix(string(request.Payload[4:]), "git-upload-pack "), "'")
			command := exec.Command("git-upload-pack", path)
			command.Stdout, command.Stderr = channel, channel.Stderr()
			// Not command.Stdin: Run would wait for the client's end even when git has ended.
			stdin, err := command.StdinPipe()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(stdin, channel) }()
			status := byte(0)
			if command.Run() != nil {
				status = 1
			}
			_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, status})
			_ = channel.Close()
		}
	}
}

func TestSSH(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	f := newForge(t, githttp.Options{})
	client, key := newKey(t, "")
	_, stranger := newKey(t, "")
	address, host := startSSH(t, client.PublicKey())
	other, _ := newKey(t, "")

	dir := t.TempDir()
	known, wrong := filepath.Join(dir, "known"), filepath.Join(dir, "wrong")
	write(t, known, knownhosts.Line([]string{address}, host)+"\n")
	write(t, wrong, knownhosts.Line([]string{address}, other.PublicKey())+"\n")
	write(t, filepath.Join(dir, "empty"), "")

	url := "ssh://git@" + address + f.Dir("web")
	tests := []struct {
		name string
		auth source.Auth
		want error
		text string
	}{
		{"key", source.Auth{SSHKeys: []string{filepath.Join(dir, "absent"), stranger, key}, KnownHosts: []string{known}}, nil, ""},
		{"another key", source.Auth{SSHKeys: []string{stranger}, KnownHosts: []string{known}}, source.ErrUnauthorized, "PINNACE_GIT_SSH_KEY"},
		{"no key", source.Auth{KnownHosts: []string{known}}, source.ErrUnauthorized, "no ssh key and no agent"},
		{"no known hosts", source.Auth{SSHKeys: []string{key}, KnownHosts: []string{filepath.Join(dir, "absent")}}, source.ErrUnauthorized, "ssh-keyscan 127.0.0.1"},
		{"unknown host", source.Auth{SSHKeys: []string{key}, KnownHosts: []string{filepath.Join(dir, "empty")}}, source.ErrUnauthorized, "ssh-keyscan 127.0.0.1"},
		{"another host key", source.Auth{SSHKeys: []string{key}, KnownHosts: []string{wrong}}, source.ErrUnauthorized, "check the server's key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := checkout(t, url, v1alpha1.GitRef{Branch: "main"}, source.Options{Auth: test.auth})
			if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.text) {
				t.Fatalf("got %v, want %v with %q", err, test.want, test.text)
			}
			if err == nil && (got.Commit != f.tip || got.Repository != "ssh://"+address+strings.TrimSuffix(f.Dir("web"), ".git")) {
				t.Errorf("got %+v", got)
			}
		})
	}
	_, err := checkout(t, url+"x", v1alpha1.GitRef{}, source.Options{Auth: tests[0].auth})
	t.Log(err)
	if err == nil {
		t.Error("an absent repository was taken")
	}
}

func TestSSHKeyWithPassphrase(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	f := newForge(t, githttp.Options{})
	client, key := newKey(t, "s3cret")
	address, host := startSSH(t, client.PublicKey())
	known := filepath.Join(t.TempDir(), "known")
	write(t, known, knownhosts.Line([]string{address}, host)+"\n")
	for passphrase, works := range map[string]bool{"s3cret": true, "wrong": false, "": false} {
		_, err := checkout(t, "ssh://git@"+address+f.Dir("web"), v1alpha1.GitRef{}, source.Options{
			Auth: source.Auth{SSHKeys: []string{key}, SSHKeyPassphrase: passphrase, KnownHosts: []string{known}},
		})
		if works != (err == nil) || !works && !errors.Is(err, source.ErrUnauthorized) {
			t.Errorf("passphrase %q: %v", passphrase, err)
		}
	}
}
