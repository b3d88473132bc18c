import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.locks.Revoker;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.queue.DistributedPriorityQueue;
import org.apache.curator.framework.recipes.queue.DistributedQueue;
import org.apache.curator.framework.recipes.queue.QueueBuilder;
import org.apache.curator.framework.recipes.queue.QueueConsumer;
import org.apache.curator.framework.recipes.queue.QueueSerializer;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryForever;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;

/**
 * Takes part in recipes through Curator, as it is told on standard input: {@code CuratorRecipes
 * HOST:PORT PATH}.
 *
 * <p>A line is a verb and a number, mostly that of a participant; each participant has a thread and
 * objects of its own, and all share a session. Everything that happens is told on standard output.
 * Recipes are below PATH, each under its own name; see {@code obey}.
 */
public final class CuratorRecipes {
    private static final int PERMITS = 2;
    private static final int MEMBERS = 2;

    public static void main(String[] args) throws Exception {
        CuratorFramework client =
                CuratorFrameworkFactory.newClient(args[0], 4_000, 10_000, new RetryForever(100));
        client.start();
        client.blockUntilConnected();
        Map<String, Participant> participants = new HashMap<>();
        say("ready 0");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            Participant participant =
                    participants.computeIfAbsent(
                            words[1], n -> new Participant(client, args[1], n));
            participant.thread.execute(() -> participant.obey(words[0]));
        }
        System.exit(0);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** Locks belong to the thread that acquired them. */
    private static final class Participant {
        final ExecutorService thread = Executors.newSingleThreadExecutor();
        private final CuratorFramework client;
        private final String path;
        private final String number;
        private final InterProcessReadWriteLock rwlock;
        private final DistributedDoubleBarrier doubleBarrier;
        private final InterProcessMutex mutex;
        private Lease lease;
        private LeaderLatch latch;
        private GroupMember member;
        private DistributedQueue<String> queue;
        private ServiceDiscovery<String> discovery;

        Participant(CuratorFramework client, String path, String number) {
            this.client = client;
            this.path = path;
            this.number = number;
            this.rwlock = new InterProcessReadWriteLock(client, path + "/rwlock");
            this.doubleBarrier =
                    new DistributedDoubleBarrier(client, path + "/double_barrier", MEMBERS);
            this.mutex = new InterProcessMutex(client, path + "/lock");
        }

        void obey(String verb) {
            try {
                String answer = act(verb);
                if (answer != null) {
                    say(answer + " " + number);
                }
            } catch (Exception failure) {
                say("failed " + number + ": " + failure);
            }
        }

        private String act(String verb) throws Exception {
            InterProcessSemaphoreV2 semaphore =
                    new InterProcessSemaphoreV2(client, path + "/semaphore", PERMITS);
            DistributedBarrier barrier = new DistributedBarrier(client, path + "/barrier");
            switch (verb) {
                case "read":
                    rwlock.readLock().acquire();
                    return "held";
                case "tryread":
                    return rwlock.readLock().acquire(0, TimeUnit.SECONDS) ? "held" : "busy";
                case "unread":
                    rwlock.readLock().release();
                    return "released";
                case "write":
                    rwlock.writeLock().acquire();
                    return "held";
                case "trywrite":
                    return rwlock.writeLock().acquire(0, TimeUnit.SECONDS) ? "held" : "busy";
                case "unwrite":
                    rwlock.writeLock().release();
                    return "released";
                case "permit":
                    lease = semaphore.acquire();
                    return "held";
                case "trypermit":
                    lease = semaphore.acquire(500, TimeUnit.MILLISECONDS);
                    return lease == null ? "busy" : "held";
                case "unpermit":
                    semaphore.returnLease(lease);
                    return "released";
                case "revocable":
                    mutex.makeRevocable(lock -> say("revoked " + number));
                    mutex.acquire();
                    return "held";
                case "revoke":
                    String holder = mutex.getParticipantNodes().iterator().next();
                    Revoker.attemptRevoke(client, holder);
                    return "asked";
                case "unlock":
                    mutex.release();
                    return "released";
                case "lead":
                    latch = new LeaderLatch(client, path + "/election", "foreigner-" + number);
                    latch.start();
                    latch.await();
                    return "leading";
                case "resign":
                    latch.close();
                    return "resigned";
                case "leader":
                    LeaderLatch observer = new LeaderLatch(client, path + "/election", "observer");
                    return "leader " + observer.getLeader().getId();
                case "close":
                    barrier.setBarrier();
                    return "closed";
                case "wait":
                    barrier.waitOnBarrier();
                    return "passed";
                case "open":
                    barrier.removeBarrier();
                    return "opened";
                case "enter":
                    doubleBarrier.enter();
                    return "inside";
                case "leave":
                    doubleBarrier.leave();
                    return "outside";
                case "join":
                    byte[] payload = "theirs".getBytes(StandardCharsets.UTF_8);
                    member = new GroupMember(client, path + "/group", "foreigner-" + number, payload);
                    member.start();
                    return "joined";
                case "members":
                    TreeSet<String> members = new TreeSet<>();
                    member.getCurrentMembers()
                            .forEach((id, data) -> members.add(id + "=" + new String(data)));
                    return "members " + String.join(",", members);
                case "part":
                    member.close();
                    return "left";
                case "add":
                    DistributedAtomicLong counter =
                            new DistributedAtomicLong(
                                    client, path + "/counter", new RetryForever(10));
                    return "sum " + counter.add(Long.valueOf(number)).postValue();
                case "count":
                    SharedCount count = new SharedCount(client, path + "/count", 0);
                    count.start();
                    int seen = count.getCount();
                    count.setCount(seen + 1);
                    count.close();
                    return "count " + seen;
                case "put":
                    DistributedQueue<String> producer = builder("queue", null).buildQueue();
                    producer.start();
                    producer.put("theirs-" + number);
                    producer.flushPuts(10, TimeUnit.SECONDS);
                    return "put";
                case "putpriority":
                    DistributedPriorityQueue<String> priority =
                            builder("priority", null).buildPriorityQueue(0);
                    priority.start();
                    priority.put("theirs-" + number, Integer.parseInt(number));
                    priority.flushPuts(10, TimeUnit.SECONDS);
                    return "put";
                case "take":
                    queue = builder("queue", new Consumer()).buildQueue();
                    queue.start();
                    return "taking";
                case "untake":
                    queue.close();
                    return "stopped";
                case "register":
                    discovery().registerService(instance());
                    return "registered";
                case "unregister":
                    discovery().unregisterService(instance());
                    return "unregistered";
                case "resolve":
                    TreeSet<String> found = new TreeSet<>();
                    for (ServiceInstance<String> one : discovery().queryForInstances("mail")) {
                        found.add(
                                one.getId() + "@" + one.getAddress() + ":" + one.getPort() + "="
                                        + one.getPayload());
                    }
                    return "found " + String.join(",", found);
                default:
                    throw new IllegalArgumentException(verb);
            }
        }

        private ServiceDiscovery<String> discovery() throws Exception {
            if (discovery == null) {
                discovery =
                        ServiceDiscoveryBuilder.builder(String.class)
                                .client(client)
                                .basePath(path + "/services")
                                .build();
                discovery.start();
            }
            return discovery;
        }

        private ServiceInstance<String> instance() throws Exception {
            return ServiceInstance.<String>builder()
                    .name("mail")
                    .id("foreigner-" + number)
                    .address("10.0.0.9")
                    .port(25)
                    .payload("theirs")
                    .build();
        }

        private QueueBuilder<String> builder(String name, QueueConsumer<String> consumer) {
            return QueueBuilder.builder(client, consumer, new Text(), path + "/" + name)
                    .lockPath(path + "/" + name + "-locks");
        }
    }

    private static final class Consumer implements QueueConsumer<String> {
        @Override
        public void consumeMessage(String message) {
            say("took " + message);
        }

        @Override
        public void stateChanged(CuratorFramework client, ConnectionState state) {}
    }

    private static final class Text implements QueueSerializer<String> {
        @Override
        public byte[] serialize(String item) {
            return item.getBytes(StandardCharsets.UTF_8);
        }

        @Override
        public String deserialize(byte[] bytes) {
            return new String(bytes, StandardCharsets.UTF_8);
        }
    }
}
