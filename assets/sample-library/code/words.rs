//! Petits outils pour les jeux de mots du dimanche.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Combien de lettres faut-il ajouter, ôter ou changer pour passer d'un mot à l'autre ?
pub fn distance(from: &str, to: &str) -> usize {
    let target: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=target.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in target.iter().enumerate() {
            let cost = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[target.len()]
}

/// Réunit les mots formés des mêmes lettres dans un autre ordre.
pub fn same_letters(words: &[&str]) -> Vec<Vec<String>> {
    let mut families: BTreeMap<Vec<char>, Vec<String>> = BTreeMap::new();
    for word in words {
        let mut key: Vec<char> = word.to_lowercase().chars().collect();
        key.sort_unstable();
        families.entry(key).or_default().push((*word).to_string());
    }
    families.into_values().filter(|family| family.len() > 1).collect()
}

/// Un arbre où chaque branche est une lettre : il complète le début d'un mot.
#[derive(Default)]
pub struct Tree {
    children: BTreeMap<char, Tree>,
    complete: bool,
}

impl Tree {
    pub fn insert(&mut self, word: &str) {
        let mut node = self;
        for letter in word.chars() {
            node = node.children.entry(letter).or_default();
        }
        node.complete = true;
    }

    /// Tous les mots connus qui commencent ainsi, dans l'ordre alphabétique.
    pub fn suggestions(&self, start: &str) -> Vec<String> {
        let mut node = self;
        for letter in start.chars() {
            match node.children.get(&letter) {
                Some(child) => node = child,
                None => return Vec::new(),
            }
        }
        let mut found = Vec::new();
        node.collect(&mut start.to_string(), &mut found);
        found
    }

    fn collect(&self, word: &mut String, found: &mut Vec<String>) {
        if self.complete {
            found.push(word.clone());
        }
        for (letter, child) in &self.children {
            word.push(*letter);
            child.collect(word, found);
            word.pop();
        }
    }
}

/// Le plus court chemin dans un labyrinthe de murs '#', en largeur d'abord ; None s'il n'y a pas d'issue.
pub fn way_out(maze: &[&str], start: (usize, usize), exit: (usize, usize)) -> Option<usize> {
    let grid: Vec<Vec<char>> = maze.iter().map(|line| line.chars().collect()).collect();
    let mut steps = HashMap::from([(start, 0)]);
    let mut queue = VecDeque::from([start]);
    while let Some((y, x)) = queue.pop_front() {
        if (y, x) == exit {
            return steps.get(&exit).copied();
        }
        let so_far = steps[&(y, x)];
        for (ny, nx) in [(y.wrapping_sub(1), x), (y + 1, x), (y, x.wrapping_sub(1)), (y, x + 1)] {
            let open = grid.get(ny).and_then(|line| line.get(nx)).is_some_and(|cell| *cell != '#');
            if open && !steps.contains_key(&(ny, nx)) {
                steps.insert((ny, nx), so_far + 1);
                queue.push_back((ny, nx));
            }
        }
    }
    None
}
