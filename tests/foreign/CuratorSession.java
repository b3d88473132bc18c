import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryForever;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.data.Stat;

/**
 * Drives a server through Curator and tells on standard output what came of it.
 *
 * <p>The same lines are expected from every server. A line {@code @restart} asks whoever runs this
 * program to restart the server, and to say so with a line on standard input.
 */
public final class CuratorSession {
    private static final int DEADLINE_S = 30;
    private static String address;

    public static void main(String[] args) throws Exception {
        address = args[0];
        operations();
        watches();
        locks();
        meetings();
        counters();
        restart();
        say("== done");
        System.exit(0);
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private static CuratorFramework client() throws Exception {
        CuratorFramework client =
                CuratorFrameworkFactory.newClient(address, 20_000, 10_000, new RetryForever(100));
        client.start();
        if (!client.blockUntilConnected(DEADLINE_S, TimeUnit.SECONDS)) {
            throw new TimeoutException("no connection to " + address);
        }
        return client;
    }

    private static <T> T next(BlockingQueue<T> queue, String what) throws Exception {
        T value = queue.poll(DEADLINE_S, TimeUnit.SECONDS);
        if (value == null) {
            throw new TimeoutException(what + " did not happen");
        }
        return value;
    }

    private interface Work {
        void run(CuratorFramework client, int n) throws Exception;
    }

    /** Runs the work in several threads with a client each; a failure in one is a failure. */
    private static void together(int count, Work work) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        List<Future<Void>> done = new ArrayList<>();
        for (int n = 0; n < count; n++) {
            int me = n;
            Callable<Void> task =
                    () -> {
                        try (CuratorFramework client = client()) {
                            work.run(client, me);
                        }
                        return null;
                    };
            done.add(threads.submit(task));
        }
        for (Future<Void> each : done) {
            each.get(DEADLINE_S, TimeUnit.SECONDS);
        }
        threads.shutdown();
    }

    private static void operations() throws Exception {
        say("== operations");
        try (CuratorFramework client = client()) {
            say(client.create().creatingParentContainersIfNeeded().forPath("/c/a/b", "x".getBytes()));
            String name =
                    client.create()
                            .withProtection()
                            .withMode(CreateMode.EPHEMERAL_SEQUENTIAL)
                            .forPath("/c/p-");
            say("protected " + name.replaceFirst("_c_[0-9a-f-]{36}-", "_c_GUID-"));
            Stat stat = new Stat();
            client.create().withTtl(60_000).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath("/c/ttl");
            client.setData().withVersion(0).forPath("/c/a/b", "y".getBytes());
            say(new String(client.getData().storingStatIn(stat).forPath("/c/a/b")) + " version " + stat.getVersion());
            try {
                client.setData().withVersion(0).forPath("/c/a/b");
            } catch (KeeperException error) {
                say(error.code().name());
            }
            List<CuratorTransactionResult> results =
                    client.transaction()
                            .forOperations(
                                    client.transactionOp().create().forPath("/t", "1".getBytes()),
                                    client.transactionOp().setData().withVersion(0).forPath("/t"),
                                    client.transactionOp().check().withVersion(1).forPath("/t"),
                                    client.transactionOp().delete().withVersion(1).forPath("/t"));
            for (CuratorTransactionResult result : results) {
                say(result.getType() + " " + result.getForPath() + " " + result.getError());
            }
            try {
                client.transaction()
                        .forOperations(
                                client.transactionOp().create().forPath("/t"),
                                client.transactionOp().delete().forPath("/none"));
            } catch (KeeperException error) {
                say(error.code().name());
                for (var result : error.getResults()) {
                    say("  " + result.getClass().getSimpleName());
                }
            }
            say("nothing happened: " + (client.checkExists().forPath("/t") == null));
            client.delete().guaranteed().deletingChildrenIfNeeded().forPath("/c/a");
            List<String> left = client.getChildren().forPath("/c");
            say("left " + left.size());
        }
    }

    private static void watches() throws Exception {
        say("== watches");
        try (CuratorFramework client = client();
                CuratorFramework other = client()) {
            BlockingQueue<String> seen = new LinkedBlockingQueue<>();
            client.watchers()
                    .add()
                    .withMode(AddWatchMode.PERSISTENT_RECURSIVE)
                    .usingWatcher(
                            (org.apache.zookeeper.Watcher)
                                    event -> seen.add(event.getType() + " " + event.getPath()))
                    .forPath("/w");
            other.create().forPath("/w");
            other.create().forPath("/w/x");
            other.setData().forPath("/w/x", "1".getBytes());
            other.delete().forPath("/w/x");
            for (int n = 0; n < 4; n++) {
                say(next(seen, "an event"));
            }
            client.watchers().removeAll().forPath("/w");
            say(next(seen, "removal"));

            CuratorCache cache = CuratorCache.build(client, "/w");
            BlockingQueue<String> changes = new LinkedBlockingQueue<>();
            cache.listenable()
                    .addListener(
                            (type, before, after) ->
                                    changes.add(type + " " + (after == null ? before : after).getPath()));
            cache.start();
            say(next(changes, "the first entry"));
            other.create().forPath("/w/y");
            say(next(changes, "creation"));
            other.setData().forPath("/w/y", "2".getBytes());
            say(next(changes, "change"));
            other.delete().forPath("/w/y");
            say(next(changes, "deletion"));
            cache.close();
        }
    }

    private static void locks() throws Exception {
        say("== locks");
        AtomicInteger inside = new AtomicInteger();
        AtomicInteger most = new AtomicInteger();
        AtomicInteger entries = new AtomicInteger();
        together(
                5,
                (client, n) -> {
                    InterProcessMutex mutex = new InterProcessMutex(client, "/mutex");
                    for (int turn = 0; turn < 10; turn++) {
                        mutex.acquire();
                        most.accumulateAndGet(inside.incrementAndGet(), Math::max);
                        entries.incrementAndGet();
                        inside.decrementAndGet();
                        mutex.release();
                    }
                });
        say("mutex: entries " + entries + ", at once " + most);

        try (CuratorFramework ann = client();
                CuratorFramework bob = client()) {
            InterProcessMutex held = new InterProcessMutex(ann, "/mutex");
            held.acquire();
            held.acquire();
            InterProcessMutex wanted = new InterProcessMutex(bob, "/mutex");
            say("not twice: " + wanted.acquire(200, TimeUnit.MILLISECONDS));
            say("participants: " + held.getParticipantNodes().size());
            held.release();
            say("still held: " + wanted.acquire(200, TimeUnit.MILLISECONDS));
            held.release();
            say("free: " + wanted.acquire(DEADLINE_S, TimeUnit.SECONDS));
            wanted.release();

            InterProcessReadWriteLock mine = new InterProcessReadWriteLock(ann, "/rw");
            InterProcessReadWriteLock yours = new InterProcessReadWriteLock(bob, "/rw");
            mine.readLock().acquire();
            say("two readers: " + yours.readLock().acquire(DEADLINE_S, TimeUnit.SECONDS));
            yours.readLock().release();
            say("no writer: " + yours.writeLock().acquire(200, TimeUnit.MILLISECONDS));
            mine.readLock().release();
            say("writer: " + yours.writeLock().acquire(DEADLINE_S, TimeUnit.SECONDS));
            yours.writeLock().release();

            InterProcessSemaphoreV2 semaphore = new InterProcessSemaphoreV2(ann, "/sem", 2);
            Lease one = semaphore.acquire();
            Lease two = new InterProcessSemaphoreV2(bob, "/sem", 2).acquire();
            say("no third: " + semaphore.acquire(200, TimeUnit.MILLISECONDS));
            one.close();
            Lease three = semaphore.acquire(DEADLINE_S, TimeUnit.SECONDS);
            say("then a third: " + (three != null));
            two.close();
            three.close();
        }
    }

    private static void meetings() throws Exception {
        say("== meetings");
        try (CuratorFramework ann = client();
                CuratorFramework bob = client()) {
            LeaderLatch first = new LeaderLatch(ann, "/latch", "ann");
            LeaderLatch second = new LeaderLatch(bob, "/latch", "bob");
            first.start();
            first.await();
            second.start();
            say("leader: " + first.getLeader().getId() + ", second leads: " + second.hasLeadership());
            first.close();
            say("second leads: " + second.await(DEADLINE_S, TimeUnit.SECONDS));
            second.close();

            DistributedBarrier barrier = new DistributedBarrier(ann, "/barrier");
            barrier.setBarrier();
            DistributedBarrier other = new DistributedBarrier(bob, "/barrier");
            say("closed: " + other.waitOnBarrier(100, TimeUnit.MILLISECONDS));
            barrier.removeBarrier();
            say("open: " + other.waitOnBarrier(DEADLINE_S, TimeUnit.SECONDS));
        }
        AtomicInteger met = new AtomicInteger();
        together(
                3,
                (client, n) -> {
                    DistributedDoubleBarrier both = new DistributedDoubleBarrier(client, "/double", 3);
                    both.enter();
                    met.incrementAndGet();
                    both.leave();
                });
        say("double barrier: " + met);
    }

    private static void counters() throws Exception {
        say("== counters");
        together(
                3,
                (client, n) -> {
                    DistributedAtomicLong counter =
                            new DistributedAtomicLong(client, "/long", new RetryForever(10));
                    for (int turn = 0; turn < 10; turn++) {
                        while (!counter.increment().succeeded()) {
                            Thread.yield();
                        }
                    }
                });
        try (CuratorFramework client = client();
                CuratorFramework other = client()) {
            say("long: " + new DistributedAtomicLong(client, "/long", new RetryForever(10)).get().postValue());
            SharedCount mine = new SharedCount(client, "/count", 7);
            SharedCount yours = new SharedCount(other, "/count", 7);
            mine.start();
            yours.start();
            mine.setCount(8);
            while (yours.getCount() != 8) {
                Thread.onSpinWait();
            }
            say("count: " + yours.getCount());
            mine.close();
            yours.close();
        }
    }

    private static void restart() throws Exception {
        say("== a restart of the server");
        try (CuratorFramework client = client()) {
            BlockingQueue<ConnectionState> states = new LinkedBlockingQueue<>();
            client.getConnectionStateListenable()
                    .addListener(
                            (c, state) -> {
                                // The news of the first connection may come late.
                                if (state != ConnectionState.CONNECTED) {
                                    states.add(state);
                                }
                            });
            InterProcessMutex mutex = new InterProcessMutex(client, "/mutex");
            mutex.acquire();
            PersistentNode node =
                    new PersistentNode(client, CreateMode.EPHEMERAL, false, "/member", "me".getBytes());
            node.start();
            node.waitForInitialCreate(DEADLINE_S, TimeUnit.SECONDS);
            BlockingQueue<String> seen = new LinkedBlockingQueue<>();
            CuratorCache cache = CuratorCache.build(client, "/member");
            CountDownLatch filled = new CountDownLatch(1);
            cache.listenable()
                    .addListener(
                            (type, before, after) -> {
                                filled.countDown();
                                if (after != null && new String(after.getData()).equals("changed")) {
                                    seen.add("changed");
                                }
                            });
            cache.start();
            filled.await(DEADLINE_S, TimeUnit.SECONDS);
            long session = client.getZookeeperClient().getZooKeeper().getSessionId();
            say("@restart");
            if (System.in.read() < 0) {
                throw new IllegalStateException("nobody restarted the server");
            }
            say("" + next(states, "the loss of the connection"));
            say("" + next(states, "a new connection"));
            say("the same session: "
                    + (client.getZookeeperClient().getZooKeeper().getSessionId() == session));
            say("still mine: " + mutex.isOwnedByCurrentThread()
                    + " " + (client.checkExists().forPath("/member").getEphemeralOwner() == session));
            try (CuratorFramework other = client()) {
                // The cache may be reading everything again and miss a change under its hands.
                String change = null;
                for (int n = 0; change == null && n < 10 * DEADLINE_S; n++) {
                    other.setData().forPath("/member", "changed".getBytes());
                    change = seen.poll(100, TimeUnit.MILLISECONDS);
                }
                say("watched again: " + change);
            }
            mutex.release();
            cache.close();
            node.close();
        }
    }
}
