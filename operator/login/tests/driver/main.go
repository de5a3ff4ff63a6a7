// The driver of Bytebase, asked for one login after the other, or for what it reads in a connection
// string: a line of JSON in, a line of JSON out.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Longer than any login takes on a busy machine; what is silent is not asked here.
const limit = 20 * time.Second

type outcome struct {
	// What the session says of itself; empty without one.
	Session string `json:"session"`
	// Where it failed: "parse" before anything was sent, "tls" where the driver does not take what the
	// server shows or offers, "network" without a connection to its end, and otherwise "server".
	Kind string `json:"kind"`
	// SQLSTATE of the last refusal, if it was the server that refused.
	Code string `json:"code"`
	// For a reader of a failed test.
	Error string `json:"error"`
	// What the connection string was read as, if only that was asked for.
	Target *target `json:"target,omitempty"`
}

// Where a connection string leads, in the order of the attempts and before any name is looked up.
type target struct {
	Attempts []attempt `json:"attempts"`
	User     string    `json:"user"`
	Password string    `json:"password"`
	Database string    `json:"database"`
	Attrs    string    `json:"attrs"`
	// In seconds; 0 is no limit.
	Timeout int64 `json:"timeout"`
	// What is sent to the server at the start, beside user and database.
	Params map[string]string `json:"params"`
}

type attempt struct {
	Host string `json:"host"`
	Port uint16 `json:"port"`
	// "none" is clear text; otherwise what the server must prove: "nothing", "chain", "chain-and-name".
	TLS string `json:"tls"`
	// The name that is sent in the clear when TLS begins.
	Announced string `json:"announced"`
}

type login struct {
	URL string `json:"url"`
	// Asked once logged in.
	Question string `json:"question"`
	// Where names lead to that no resolver knows.
	Names map[string][]string `json:"names"`
	// Only the connection string is read, and nothing is sent.
	ParseOnly bool `json:"parse_only"`
}

// A connection string, or a file that it names, which the driver does not take.
type unparsed struct{ error }

func (asked login) try(session *string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	config, err := pgx.ParseConfig(asked.URL)
	if err != nil {
		return unparsed{err}
	}
	resolver := config.LookupFunc
	config.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		if addresses, known := asked.Names[host]; known {
			return addresses, nil
		}
		return resolver(ctx, host)
	}
	connection, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	results, err := connection.PgConn().Exec(ctx, asked.Question).ReadAll()
	if err != nil {
		return err
	}
	*session = string(results[0].Rows[0][0])
	return nil
}

// The requirements by their names; without one there is nothing to check.
var requirements = map[string]pgconn.ValidateConnectFunc{
	"read-write":     pgconn.ValidateConnectTargetSessionAttrsReadWrite,
	"read-only":      pgconn.ValidateConnectTargetSessionAttrsReadOnly,
	"primary":        pgconn.ValidateConnectTargetSessionAttrsPrimary,
	"standby":        pgconn.ValidateConnectTargetSessionAttrsStandby,
	"prefer-standby": pgconn.ValidateConnectTargetSessionAttrsPreferStandby,
}

func (asked login) parse() (*target, error) {
	config, err := pgx.ParseConfig(asked.URL)
	if err != nil {
		return nil, unparsed{err}
	}
	read := target{
		User: config.User, Password: config.Password, Database: config.Database,
		Attrs: "any", Timeout: int64(config.ConnectTimeout.Seconds()), Params: config.RuntimeParams,
	}
	for name, requirement := range requirements {
		if reflect.ValueOf(requirement).Pointer() == reflect.ValueOf(config.ValidateConnect).Pointer() {
			read.Attrs = name
		}
	}
	read.add(config.Host, config.Port, config.TLSConfig)
	for _, next := range config.Fallbacks {
		read.add(next.Host, next.Port, next.TLSConfig)
	}
	return &read, nil
}

func (read *target) add(host string, port uint16, config *tls.Config) {
	next := attempt{Host: host, Port: port, TLS: "none"}
	if config != nil {
		switch {
		case !config.InsecureSkipVerify:
			next.TLS = "chain-and-name"
		case config.VerifyPeerCertificate != nil:
			next.TLS = "chain"
		default:
			next.TLS = "nothing"
		}
		// Go's TLS sends no address, and no dot at the end.
		if net.ParseIP(config.ServerName) == nil {
			next.Announced = strings.TrimSuffix(config.ServerName, ".")
		}
	}
	read.Attempts = append(read.Attempts, next)
}

func (asked login) outcome() (result outcome) {
	var err error
	if asked.ParseOnly {
		result.Target, err = asked.parse()
	} else {
		err = asked.try(&result.Session)
	}
	if err != nil {
		result.Error = err.Error()
		result.Kind, result.Code = last(err)
	}
	return result
}

// What the last attempt ended with: the driver joins the errors of all, and gave up at the last one.
func last(err error) (kind, code string) {
	for err != nil {
		if kind, code := known(err); kind != "" {
			return kind, code
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			all := joined.Unwrap()
			err = all[len(all)-1]
			continue
		}
		err = errors.Unwrap(err)
	}
	return "server", ""
}

// The kind of an error that is a cause in itself.
func known(err error) (kind, code string) {
	// Neither is exported, or has a type of its own.
	text := err.Error()
	isOfTLS := strings.HasPrefix(text, "tls: ") || strings.HasPrefix(text, "x509: ") ||
		text == "server refused TLS connection"
	switch cause := err.(type) {
	case unparsed:
		return "parse", ""
	case *pgconn.PgError:
		return "server", cause.Code
	case *net.OpError:
		if cause.Op == "local error" {
			return "tls", ""
		}
		// An alert of the other side among them, of which the end of the connection may be all that
		// arrives.
		return "network", ""
	}
	if isOfTLS {
		return "tls", ""
	}
	if _, ok := err.(net.Error); ok || err == io.EOF || err == io.ErrUnexpectedEOF {
		return "network", ""
	}
	return "", ""
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked login
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		if err := answers.Encode(asked.outcome()); err != nil {
			panic(err)
		}
	}
}
