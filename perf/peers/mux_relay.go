// Carries many connections over one channel with a stream multiplexer of Go's: hashicorp's yamux or
// xtaci's smux. Neither knows half-close: a stream ends as soon as one side of it does.
//
//	mux-relay yamux|smux near LISTEN CHANNEL    accepts clients; makes the channel, waits for the far end
//	mux-relay yamux|smux far CHANNEL CONNECT    connects to the channel, and onwards for each stream
//
// Addresses: unix:/path or tcp:host:port. Says "ready" once the channel is there.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/yamux"
	"github.com/xtaci/smux"
)

const (
	window = 1 << 20 // bytes under way on one stream
	piece  = 64 << 10
)

var buffers = sync.Pool{New: func() any { return make([]byte, piece) }}

// What both multiplexers do, in a form of their own each.
type session struct {
	open   func() (io.ReadWriteCloser, error)
	accept func() (io.ReadWriteCloser, error)
}

func address(text string) (network, place string) {
	network, place, found := strings.Cut(text, ":")
	if !found {
		log.Fatalf("%s: an address is unix:/path or tcp:host:port", text)
	}
	return network, place
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func multiplex(kind string, channel net.Conn, near bool) session {
	switch kind {
	case "yamux":
		config := yamux.DefaultConfig()
		config.MaxStreamWindowSize = window
		config.LogOutput = io.Discard
		role := yamux.Server
		if near {
			role = yamux.Client
		}
		mux := must(role(channel, config))
		return session{
			open:   func() (io.ReadWriteCloser, error) { return mux.OpenStream() },
			accept: func() (io.ReadWriteCloser, error) { return mux.AcceptStream() },
		}
	case "smux":
		config := smux.DefaultConfig()
		config.Version = 2
		config.MaxFrameSize = 65535
		config.MaxStreamBuffer = window
		config.MaxReceiveBuffer = 16 * window
		role := smux.Server
		if near {
			role = smux.Client
		}
		mux := must(role(channel, config))
		return session{
			open:   func() (io.ReadWriteCloser, error) { return mux.OpenStream() },
			accept: func() (io.ReadWriteCloser, error) { return mux.AcceptStream() },
		}
	}
	log.Fatalf("%s: yamux or smux", kind)
	panic("not reached")
}

func carry(one, other io.ReadWriteCloser) {
	var ends sync.Once
	end := func() {
		one.Close()
		other.Close()
	}
	copyOver := func(to io.Writer, from io.Reader) {
		buffer := buffers.Get().([]byte)
		io.CopyBuffer(to, from, buffer)
		buffers.Put(buffer)
		ends.Do(end)
	}
	go copyOver(one, other)
	copyOver(other, one)
}

func near(kind, listen, channel string) {
	line := must(net.Listen(address(channel)))
	mux := multiplex(kind, must(line.Accept()), true)
	clients := must(net.Listen(address(listen)))
	fmt.Println("ready")
	for {
		client := must(clients.Accept())
		go func() {
			stream, err := mux.open()
			if err != nil {
				client.Close()
				return
			}
			carry(client, stream)
		}()
	}
}

func far(kind, channel, connect string) {
	mux := multiplex(kind, must(net.Dial(address(channel))), false)
	fmt.Println("ready")
	for {
		stream := must(mux.accept())
		go func() {
			service, err := net.Dial(address(connect))
			if err != nil {
				stream.Close()
				return
			}
			carry(stream, service)
		}()
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: mux-relay yamux|smux near LISTEN CHANNEL | far CHANNEL CONNECT")
	}
	switch os.Args[2] {
	case "near":
		near(os.Args[1], os.Args[3], os.Args[4])
	case "far":
		far(os.Args[1], os.Args[3], os.Args[4])
	default:
		log.Fatalf("%s: near or far", os.Args[2])
	}
}
