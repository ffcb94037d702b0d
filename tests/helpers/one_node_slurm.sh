#!/bin/bash
# A real one-node Slurm with accounting, without systemd (root needed), for tests. Packages: slurm-wlm munge slurmdbd mariadb-server.
# usage: SL=DIR one_node_slurm.sh start|stop   then: export SLURM_CONF=$SL/slurm.conf
SL=${SL:?set SL to an empty folder for the cluster, e.g. SL=$(mktemp -d)}; export SLURM_CONF=$SL/slurm.conf
start() {
  mkdir -p $SL/{munge,state,spool,log}; chmod 755 $SL; chmod 700 $SL/munge; chmod 711 $SL/munge
  [ -s $SL/munge/key ] || dd if=/dev/urandom of=$SL/munge/key bs=1 count=1024 status=none; chmod 400 $SL/munge/key
  munged --force --key-file=$SL/munge/key --socket=$SL/munge/sock --pid-file=$SL/munge/pid --log-file=$SL/munge/log --seed-file=$SL/munge/seed || return 1
  H=$(hostname -s); MEM=$(awk '/MemTotal/{print int($2/1024*0.9)}' /proc/meminfo)
  cat > $SL/slurm.conf <<C
ClusterName=one
SlurmctldHost=$H(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=${CPORT:-16817}
SlurmdPort=${DPORT:-16818}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$SL/munge/sock
StateSaveLocation=$SL/state
SlurmdSpoolDir=$SL/spool
SlurmctldPidFile=$SL/slurmctld.pid
SlurmdPidFile=$SL/slurmd.pid
SlurmctldLogFile=$SL/log/slurmctld.log
SlurmdLogFile=$SL/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePass=$SL/munge/sock
AccountingStoragePort=${BPORT:-16819}
JobCompType=jobcomp/filetxt
JobCompLoc=$SL/log/jobcomp.txt
MinJobAge=3600
DefMemPerCPU=1000
NodeName=$H NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$MEM State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
C
  # real accounting (sacct): MariaDB on a private TCP port + slurmdbd
  mkdir -p $SL/db; [ -d $SL/db/mysql ] || mariadb-install-db --no-defaults --user=root --datadir=$SL/db --auth-root-authentication-method=normal >$SL/log/dbinstall.log 2>&1
  setsid mariadbd --no-defaults --user=root --datadir=$SL/db --bind-address=127.0.0.1 --port=${MPORT:-13306} --socket=$SL/db.sock --pid-file=$SL/mariadb.pid --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 >$SL/log/mariadb.log 2>&1 </dev/null &
  for i in $(seq 100); do mariadb-admin --no-defaults -S $SL/db.sock -uroot ping >/dev/null 2>&1 && break; sleep 0.1; done
  mariadb --no-defaults -S $SL/db.sock -uroot -e "CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; CREATE DATABASE IF NOT EXISTS slurm_acct; GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1';"
  cat > $SL/slurmdbd.conf <<C
AuthType=auth/munge
AuthInfo=socket=$SL/munge/sock
DbdHost=localhost
DbdPort=${BPORT:-16819}
SlurmUser=root
LogFile=$SL/log/slurmdbd.log
PidFile=$SL/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=${MPORT:-13306}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
C
  chmod 600 $SL/slurmdbd.conf
  slurmdbd || return 1
  for i in $(seq 100); do sacctmgr -n -i list cluster >/dev/null 2>&1 && break; sleep 0.1; done
  sacctmgr -n -i add cluster one >/dev/null 2>&1
  slurmctld -f $SLURM_CONF && slurmd -f $SLURM_CONF
  for i in $(seq 50); do sinfo -h -o %T 2>/dev/null | grep -q -E 'idle|mixed|alloc' && break; sleep 0.2; done; sinfo
}
stop() { for p in slurmd.pid slurmctld.pid slurmdbd.pid mariadb.pid munge/pid; do [ -s $SL/$p ] && kill $(cat $SL/$p) 2>/dev/null; done; sleep 1; }
"$@"
