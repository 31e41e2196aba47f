package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	sshagent "github.com/xanzy/ssh-agent"
	"golang.org/x/crypto/ssh"
)

// Auth says where credentials come from. The zero value uses none; [AuthFromEnvironment] is what commands use.
//
// A credential is only ever sent to the host that it belongs to. Those in a URL win over Token, then come the files.
type Auth struct {
	// Username and Token are sent to Host (with port, when it is not the scheme's own), over https only.
	Username, Token, Host string
	// CredentialFiles are in the format of git's credential store: one https://user:password@host a line.
	CredentialFiles []string
	// NetrcFile is used over https only.
	NetrcFile string
	// SSHKeys are private keys' files; those that exist are tried after the agent's.
	SSHKeys          []string
	SSHKeyPassphrase string
	// KnownHosts are the files that hold servers' keys; a server in none of them is refused.
	KnownHosts []string
	// CAFile holds certificates that https servers may be signed by, besides the system's.
	CAFile string
	// GitHubApp is used for its host, before everything else; nil for none.
	GitHubApp *GitHubApp
}

// AuthFromEnvironment reads PINNACE_GIT_USERNAME, PINNACE_GIT_TOKEN, PINNACE_GIT_HOST, PINNACE_GIT_CREDENTIALS (a file),
// PINNACE_GIT_SSH_KEY, PINNACE_GIT_SSH_PASSPHRASE, PINNACE_GIT_KNOWN_HOSTS and PINNACE_GIT_CA_FILE, what
// [GitHubAppFromEnvironment] does, and names the files of git, curl and ssh below home.
func AuthFromEnvironment(getenv func(string) string, home string) Auth {
	auth := Auth{
		Username: getenv("PINNACE_GIT_USERNAME"), Token: getenv("PINNACE_GIT_TOKEN"), Host: getenv("PINNACE_GIT_HOST"),
		SSHKeyPassphrase: getenv("PINNACE_GIT_SSH_PASSPHRASE"), CAFile: getenv("PINNACE_GIT_CA_FILE"),
	}
	auth.GitHubApp = GitHubAppFromEnvironment(getenv)
	below := func(name string) []string {
		if home == "" {
			return nil
		}
		return []string{filepath.Join(home, filepath.FromSlash(name))}
	}
	if file := getenv("PINNACE_GIT_CREDENTIALS"); file != "" {
		auth.CredentialFiles = append(auth.CredentialFiles, file)
	}
	auth.CredentialFiles = append(auth.CredentialFiles, below(".git-credentials")...)
	if home != "" {
		auth.NetrcFile = below(".netrc")[0]
	}
	if key := getenv("PINNACE_GIT_SSH_KEY"); key != "" {
		auth.SSHKeys = []string{key}
	} else {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			auth.SSHKeys = append(auth.SSHKeys, below(".ssh/"+name)...)
		}
	}
	if file := getenv("PINNACE_GIT_KNOWN_HOSTS"); file != "" {
		auth.KnownHosts = []string{file}
	} else {
		auth.KnownHosts = append(below(".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts")
	}
	return auth
}

func (a Auth) method(ctx context.Context, to address) (transport.AuthMethod, error) {
	switch to.scheme {
	case "ssh":
		return a.ssh(to)
	case "http", "https":
		if a.GitHubApp.covers(to) {
			token, err := a.GitHubApp.token(ctx, to)
			if err != nil {
				return nil, err
			}
			return &githttp.BasicAuth{Username: githubUser, Password: token}, nil
		}
		username, password, err := a.basic(to)
		if err != nil || password == "" && username == "" {
			return nil, err
		}
		return &githttp.BasicAuth{Username: username, Password: password}, nil
	}
	return nil, nil
}

// Basic returns the user and password for an https URL that is no Git repository, such as a chart repository's, from the
// files; both are empty where there are none.
func (a Auth) Basic(location string) (username, password string, err error) {
	parsed, err := url.Parse(location)
	if err != nil {
		return "", "", errors.New("credentials for a URL that is none")
	}
	if parsed.Scheme != "https" {
		return "", "", nil
	}
	to := address{scheme: parsed.Scheme, host: strings.TrimSuffix(strings.ToLower(parsed.Host), ":443")}
	to.identity = to.scheme + "://" + to.host + parsed.Path
	a.Token = ""
	return a.basic(to)
}

func (a Auth) basic(to address) (username, password string, err error) {
	if to.pass != "" {
		return to.user, to.pass, nil
	}
	if a.Token != "" && a.Host == "" {
		return "", "", errors.New("PINNACE_GIT_TOKEN is set without PINNACE_GIT_HOST; name the host that may see it")
	}
	if a.Token != "" && to.scheme == "https" && strings.EqualFold(a.Host, to.host) {
		username := a.Username
		if username == "" {
			// Forges take any name with a token, but not an empty one.
			username = "git"
		}
		return username, a.Token, nil
	}
	for _, file := range a.CredentialFiles {
		username, password, err := fromStore(file, to)
		if err != nil || password != "" {
			return username, password, err
		}
	}
	if a.NetrcFile != "" && to.scheme == "https" {
		return fromNetrc(a.NetrcFile, to)
	}
	return "", "", nil
}

// fromStore reads the format of git-credential-store(1).
func fromStore(file string, to address) (username, password string, err error) {
	lines, err := readLines(file)
	if err != nil {
		return "", "", err
	}
	for _, line := range lines {
		entry, err := url.Parse(strings.TrimSpace(line))
		if err != nil || entry.User == nil || entry.Scheme != to.scheme || !strings.EqualFold(entry.Host, to.host) {
			continue
		}
		if to.user != "" && entry.User.Username() != to.user {
			continue
		}
		if scope := strings.Trim(entry.Path, "/"); scope != "" {
			identity, err := parseAddress(entry.Scheme + "://" + entry.Host + entry.Path)
			if err != nil || identity.identity != to.identity {
				continue
			}
		}
		if password, _ := entry.User.Password(); password != "" {
			return entry.User.Username(), password, nil
		}
	}
	return "", "", nil
}

// fromNetrc reads machine, login and password; default and macdef are left alone.
func fromNetrc(file string, to address) (username, password string, err error) {
	lines, err := readLines(file)
	if err != nil {
		return "", "", err
	}
	host := strings.Split(to.host, ":")[0]
	words := strings.Fields(strings.Join(lines, "\n"))
	matches := false
	found := func() bool { return matches && password != "" && (to.user == "" || to.user == username) }
	for i := 0; i < len(words); i++ {
		if found() && (words[i] == "machine" || words[i] == "default") {
			break
		}
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch words[i] {
		case "machine":
			matches, username, password = strings.EqualFold(next, host), "", ""
			i++
		case "default":
			matches, username, password = false, "", ""
		case "login":
			username = next
			i++
		case "password":
			password = next
			i++
		}
	}
	if !found() {
		return "", "", nil
	}
	return username, password, nil
}

func readLines(file string) ([]string, error) {
	opened, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("git credentials: %w", err)
	}
	defer func() { _ = opened.Close() }()
	var lines []string
	scanner := bufio.NewScanner(opened)
	for scanner.Scan() {
		if line := scanner.Text(); !strings.HasPrefix(strings.TrimSpace(line), "#") {
			lines = append(lines, line)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("git credentials: %s: %w", file, err)
	}
	return lines, nil
}

func (a Auth) ssh(to address) (transport.AuthMethod, error) {
	var known []string
	for _, file := range a.KnownHosts {
		if _, err := os.Stat(file); err == nil {
			known = append(known, file)
		}
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("no file with known hosts; check the server's key and add it: ssh-keyscan %s >> ~/.ssh/known_hosts",
			strings.Split(to.host, ":")[0])
	}
	callback, err := gitssh.NewKnownHostsCallback(known...)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	keys, err := a.fileKeys()
	if err != nil {
		return nil, err
	}
	agent, _, agentErr := sshagent.New()
	if agentErr != nil && len(keys) == 0 {
		return nil, fmt.Errorf("no ssh key and no agent: %w", agentErr)
	}
	return &gitssh.PublicKeysCallback{
		User:                  to.user,
		HostKeyCallbackHelper: gitssh.HostKeyCallbackHelper{HostKeyCallback: callback},
		Callback: func() ([]ssh.Signer, error) {
			if agent == nil {
				return keys, nil
			}
			held, err := agent.Signers()
			if err != nil && len(keys) == 0 {
				return nil, fmt.Errorf("ssh agent: %w", err)
			}
			return append(held, keys...), nil
		},
	}, nil
}

// fileKeys reads the keys that need no passphrase or open with the one given; for the others there is the agent.
func (a Auth) fileKeys() ([]ssh.Signer, error) {
	var keys []ssh.Signer
	for _, file := range a.SSHKeys {
		pem, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ssh key: %w", err)
		}
		key, err := ssh.ParsePrivateKey(pem)
		if locked := (*ssh.PassphraseMissingError)(nil); errors.As(err, &locked) {
			if a.SSHKeyPassphrase == "" {
				continue
			}
			key, err = ssh.ParsePrivateKeyWithPassphrase(pem, []byte(a.SSHKeyPassphrase))
		}
		if err != nil {
			return nil, fmt.Errorf("ssh key %s: %w", file, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
