// Command coredns is CoreDNS with the plugins that kubeadm's Corefile names and no others: the
// full set pulls in the client libraries of several cloud providers and takes far longer to build.
package main

import (
	"github.com/coredns/coredns/coremain"

	// The order here means nothing; CoreDNS orders plugins by its own directive list.
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	coremain.Run()
}
