#!/usr/bin/env bash
# Еженедельная копия на внешний диск. Запускается таймером по воскресеньям.
set -euo pipefail

source_folder=${1:?откуда}
target_disk=${2:?куда}

# Без этого файла на диске ничего не делаем: вдруг диск не подключён и мы заполним системный раздел.
require_disk() {
    if [[ ! -e "$target_disk/.this-is-the-backup-disk" ]]; then
        echo "диск не найден: $target_disk" >&2
        exit 3
    fi
}

# Нужно на десять процентов больше места, чем занимают исходные файлы.
require_space() {
    local need have
    need=$(du -sk "$source_folder" | cut -f1)
    have=$(df -Pk "$target_disk" | awk 'NR == 2 { print $4 }')
    if (( have < need + need / 10 )); then
        echo "мало места: нужно ${need} КБ, есть ${have} КБ" >&2
        exit 4
    fi
}

# Неизменившиеся файлы становятся жёсткими ссылками на прошлую копию и места не занимают.
snapshot() {
    local today previous
    today=$(date +%F)
    previous=$(find "$target_disk" -maxdepth 1 -type d -name '20??-??-??' ! -name "$today" | sort | tail -n 1)
    rsync -a --delete ${previous:+--link-dest="$previous"} "$source_folder/" "$target_disk/$today.part/"
    mv "$target_disk/$today.part" "$target_disk/$today"
}

# Оставляем восемь последних копий, остальные удаляем.
forget_old() {
    find "$target_disk" -maxdepth 1 -type d -name '20??-??-??' | sort | head -n -8 |
        while read -r folder; do rm -rf -- "$folder"; done
}

require_disk
require_space
snapshot
forget_old
